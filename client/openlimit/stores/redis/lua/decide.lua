-- Carries out the operations, and writes what has changed. In order, each is one of
--
--   ['acquire', lot, number, count, max_wait]    columns: costs by limit
--       without a bound if max_wait is negative
--   ['repeat', lot, number, count, max_wait, request, places]    columns: costs by limit, places
--       the same for which of the requests; places is the first, if they follow one another, and then
--       there is no column, or false
--   ['settle', which, lot, count]                columns: numbers, starts, changes by limit
--       which of the KEYS marks the lot, or false, and then there are no starts
--   ['cancel', which, lot, number, start]
--   ['penalize', length]                         microseconds, 0 to go on
--   ['observe', levels]
--
-- and is answered
--
--   acquire, repeat    1 where all start at once; else 0, and three for each: what became of it (see
--                      above); the wait in microseconds; which limit set that or was exceeded,
--                      counted from 1, 0 for none; or, where it was granted before,
--                      "start unit costs number lot", where no unit is "-"
--   settle             how many have changed nothing, and of each the position and what became of it
--   cancel             what became of it

local by_name = {acquire = acquire}
for _, operation in ipairs(call.operations) do
  local name = operation[1]
  if name == 'repeat' then
    by_name[name] = by_name[name] or repetition()
  elseif not by_name[name] then
    for each, correction in pairs(corrections()) do
      by_name[each] = correction
    end
  end
  by_name[name](unpack(operation, 2))
end

local function milliseconds_until(time)
  return string.format('%.0f', math.max(1, math.ceil((time - now) / 1000)))
end

-- By a clock of tests, keys do not expire: what is read of them is judged by the time.
for _, run in pairs(runs) do
  if run.fresh then
    local value, key_ = cmsgpack.pack(run.until_, run.batches), KEYS[run.which]
    if own_clock then
      redis.call('SET', key_, value, 'PX', milliseconds_until(run.until_))
    else
      redis.call('SET', key_, value)
    end
  end
end
for lot, until_ in pairs(lots) do
  local lifetime = milliseconds_until(until_)
  if own_clock and redis.call('PTTL', lot) < tonumber(lifetime) then
    redis.call('PEXPIRE', lot, lifetime)
  end
end

local function send(command, arguments)
  for from = 1, #arguments, MOST_ARGUMENTS do
    local to = math.min(from + MOST_ARGUMENTS - 1, #arguments)
    redis.call(command, key, unpack(arguments, from, to))
  end
end

if changed then
  local fresh = {'at', exact(at), 'limited_by', units[limited_by] or '', 'units', limited,
                 'seq', seq, 'first', first, 'seen', exact(now), 'shift', exact(shift),
                 'void', void, 'started', cmsgpack.pack(started), 'paused', exact(paused)}
  local idle_at = math.max(at, paused)
  for i = 1, n do
    fresh[#fresh + 1], fresh[#fresh + 2] = 'level:' .. names[i], exact(level[i])
    idle_at = math.max(idle_at, at + level[i] / rate[i])
  end
  for number in pairs(kept) do
    local r = records[number]
    local packed = cmsgpack.pack(r.name, r.start, r.costs, r.at, r.level, r.limited_by,
                                 r.credit, r.given_back, r.change, r.floor)
    fresh[#fresh + 1], fresh[#fresh + 2] = 'p:' .. number, packed
    fresh[#fresh + 1], fresh[#fresh + 2] = 'n:' .. r.name, number
  end
  send('HDEL', deleted)
  send('HSET', fresh)
  if own_clock then
    -- From then on the bucket decides as a new one would.
    -- (2 ms later, since Redis counts whole ones from before the script began.)
    local idle_in = math.max(1, math.ceil((idle_at - now) / 1000) + 2)
    redis.call('PEXPIRE', key, string.format('%.0f', idle_in))
  end
end
return answers
