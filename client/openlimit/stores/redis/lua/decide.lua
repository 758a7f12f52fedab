-- Carries out the operations. In order, each is one of
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
--   ['look']
--
-- and is answered
--
--   acquire, repeat    1 where all start at once; else 0, and three for each: what became of it (see
--                      above); the wait in microseconds; which limit set that or was exceeded,
--                      counted from 1, 0 for none; or, where it was granted before,
--                      "start unit costs number lot", where no unit is "-"
--   settle             how many have changed nothing, and of each the position and what became of it
--   cancel             what became of it
--   look               microseconds until something may start; the level of each limit, as text

local function look()
  answer(math.max(0, at - now, paused - now))
  for _, filled in ipairs(leaked(level, math.max(0, now - at))) do
    answer(exact(filled))
  end
end

local by_name = {acquire = acquire, look = look}
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
