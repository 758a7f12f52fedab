-- The state of one bucket, and the clock by which it is decided. The script goes on in the other
-- files, see __init__.py; together they do what bucket.py and memory.py do, for any number of
-- operations a call.
--
-- KEYS[1]  the bucket, a hash:
--            at            the latest start handed out
--            paused        until when nothing new starts
--            level:<name>  how full the bucket of each limit is then, in units
--            limited_by    the unit that set that start; empty for none
--            units         the limits' names, in their order
--            seq, first    the numbers of the latest and of the oldest reservation that is kept
--            started       when and how full the bucket was with what had started and is not kept,
--                          and as much of that as was observed
--            void          the number before which none can be cancelled any more
--            p:<number>    such a reservation: a start to come, and the bucket as it was before
--            n:<name>      the number of the reservation of that name, which is lot-number
--            seen, shift   the time of the latest decision, and by how much the clock was behind
-- KEYS[2…] lots: which of their reservations were settled or cancelled, see marks.lua; and
--          requests: what was granted to them, see repeat.lua
-- ARGV[1]  JSON:
--            clock         microseconds, for tests; null for Redis's own, by which keys expire
--            limits        [name, unit, amount, capacity, rate, most] each
--            operations    see decide.lua
--            requests      [key, kept] each: which of the KEYS remembers it, for how long from now;
--                          if that is negative, for so long from the start
--            lots          how the keys of this bucket's lots begin
--            settled_within, marked   microseconds from the start, as in protocol.py
--            secret        instead of all others: KEYS[1] is it from now on, unless there is one
-- ARGV[2]  the operations' columns of numbers, as doubles
-- Returns  the time, and then the answers to the operations, see decide.lua.
--
-- Times are whole microseconds, which doubles hold exactly for some 280 years. Levels are written
-- with 17 digits, from which a double is read back as it was. Every step is one of bucket.py, in the
-- same order: a test compares all decisions of the two.

local NO, YES, EXCEEDS_LIMIT, WAIT_TOO_LONG, REPEAT, NOT_STARTED = 0, 1, 2, 3, 4, 5
local CANCELLED, TOO_LATE = 6, 7
local SLACK = 1e-3
local MOST_ARGUMENTS = 4000  -- of one command or function: Lua's stack is bounded
local MOST_SWEPT = 2000

local key, call = KEYS[1], cjson.decode(ARGV[1])

if call.secret then
  redis.call('SET', key, call.secret, 'NX')
  return {redis.call('GET', key)}
end

local function exact(number)
  return string.format('%.17g', number)
end

-- All numbers of the columns, and where those of the next operation begin.
local column, taken = {}, 0
for from = 1, #ARGV[2], 8 * MOST_ARGUMENTS do
  local count = math.min((#ARGV[2] - from + 1) / 8, MOST_ARGUMENTS)
  local part = {struct.unpack('<' .. string.rep('d', count), ARGV[2], from)}
  part[count + 1] = nil  -- where it has ended
  if from == 1 then
    column = part
  else
    for _, number in ipairs(part) do
      column[#column + 1] = number
    end
  end
end

-- One after the other, since Redis takes microseconds for a table inside another.
local answers, answered = {}, 0
local function answer(value)
  answered = answered + 1
  answers[answered] = value
end

local own_clock = call.clock == cjson.null
local clock = call.clock
if own_clock then
  local time = redis.call('TIME')
  clock = time[1] * 1000000 + time[2]
end

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
local seen, shift = tonumber(state[6]) or -math.huge, tonumber(state[7]) or 0
if clock + shift < seen then
  shift = seen - clock
end
local now = clock + shift
answer(now)

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
