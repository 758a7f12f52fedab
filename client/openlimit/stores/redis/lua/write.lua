-- Writes what has changed of the bucket, and of what is kept beside it.

-- By a clock of tests, keys do not expire: what is read of them is judged by the time.
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
