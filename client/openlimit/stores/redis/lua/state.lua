-- The state of one bucket: reads it, and lets time pass.

local n = #call.limits
local names, units, amount, capacity, rate, highest, level = {}, {}, {}, {}, {}, {}, {}
local of_name, of_unit, nothing = {}, {}, {}
local fields = {'at', 'limited_by', 'units', 'seq', 'first', 'seen', 'shift', 'void',
                'started', 'paused'}
for i, limit in ipairs(call.limits) do
  names[i], units[i], amount[i], capacity[i], rate[i], highest[i] = unpack(limit)
  of_name[names[i]], of_unit[units[i]], nothing[i] = i, i, 0
  fields[#fields + 1] = 'level:' .. names[i]
end
local limited = table.concat(names, ' ')

local state = redis.call('HMGET', key, unpack(fields))
local at = tonumber(state[1]) or -math.huge
local limited_by = of_unit[state[2]] or 0
local seq, first = tonumber(state[4]) or 0, tonumber(state[5]) or 1
for i = 1, n do
  level[i] = math.min(highest[i], tonumber(state[10 + i]) or 0)
end

-- A clock that was set back, or a replica's that is behind, must not make a queue wait longer:
-- each bucket's own time goes on from where it was.
seen = math.max(seen, tonumber(state[6]) or -math.huge)
shift = math.max(shift, tonumber(state[7]) or 0)
if clock + shift < seen then
  shift = seen - clock
end
local now = clock + shift
answer(now)

local function milliseconds_until(time)
  return string.format('%.0f', math.max(1, math.ceil((time - now) / 1000)))
end

local void = tonumber(state[8]) or 0
local started = state[9] and cmsgpack.unpack(state[9])
local paused = tonumber(state[10]) or -math.huge
local changed, swept = false, false

-- Reservations that wait are read when needed, and written once, at the end.
local records, numbers = {}, {}  -- by number, and numbers by name; false once forgotten
local kept, deleted = {}, {}

local function read_record(packed)
  local r = {}
  r.name, r.start, r.costs, r.at, r.level, r.limited_by, r.credit, r.given_back, r.change, r.floor
    = cmsgpack.unpack(packed)
  return r
end

-- The reservation of that number, if it is kept; reads the next ones, up to so many, as well.
local function recall(number, ahead)
  if records[number] == nil then
    local wanted = {}
    for each = number, math.min(seq, number + (ahead or 0)) do
      wanted[#wanted + 1] = 'p:' .. each
    end
    for i, packed in ipairs(redis.call('HMGET', key, unpack(wanted))) do
      local each = number + i - 1
      if records[each] == nil then
        records[each] = packed and read_record(packed)
      end
    end
  end
  return records[number]
end

local function keep(number, record)
  records[number], numbers[record.name], kept[number] = record, number, true
end

local function forget(number)
  local name = records[number].name
  deleted[#deleted + 1], deleted[#deleted + 2] = 'p:' .. number, 'n:' .. name
  records[number], numbers[name], kept[number] = false, false, nil
end

local function leaked(levels, elapsed)
  local left = {}
  for i = 1, n do
    left[i] = math.max(0, levels[i] - elapsed * rate[i])
  end
  return left
end

-- Lets time pass for what has started, and a call start.
local function start_by(time, costs)
  local elapsed = time - started.at
  local levels = leaked(started.level, elapsed)
  local observed = started.observed and leaked(started.observed, elapsed)
  for i = 1, costs and n or 0 do
    levels[i] = levels[i] + costs[i]
  end
  started = {at = time, level = levels, observed = observed}
end

-- Drops the oldest that are kept and have started or are void; some now, more in later calls, so
-- that no call takes long.
local function sweep()
  local most, ahead = MOST_SWEPT, 0
  while not swept and first <= seq do
    local record = recall(first, ahead)
    if most == 0 or record and record.start > now and first >= void then
      break
    elseif record then
      if started and first >= void and not record.given_back then
        start_by(record.start, record.costs)
      end
      forget(first)
    end
    first, most, ahead = first + 1, most - 1, math.min(2 * ahead + 1, 100)
  end
  swept = true
end

-- Everything that was kept has started. What is not swept yet says nothing of what comes later:
-- cancelling goes back no further, and what has started is not followed from there.
local function end_queue()
  sweep()
  started = false
  if first <= seq then
    seq = seq + 1
    void = seq
  end
end

local function name_of(lot, number)
  return lot .. '-' .. number
end

-- Other limits than last time: a level keeps its name, what is pending cannot be undone any more.
if state[3] and state[3] ~= limited then
  seq, changed = seq + 1, true
  void, started = seq, false
  for name in string.gmatch(state[3], '%S+') do
    if not of_name[name] then
      deleted[#deleted + 1] = 'level:' .. name
    end
  end
end
