-- Decides about the slots of one bucket: what slots.py does, any number of operations a call.
--
-- KEYS     all with one hash tag, each present only as long as it has something to say:
-- KEYS[1]  a hash: by:<name>     whose the slot or the place is
--                  seen, shift   the time of the latest decision, and by how much the clock was
--                                behind
-- KEYS[2]  sorted set of the names that have a slot, by when their leases end
-- KEYS[3]  sorted set of the names in the queue, by when they arrived, made unique
-- KEYS[4]  sorted set of the names in the queue, by when they asked last
-- KEYS[5]  sorted set of the names that have released theirs, by when they are forgotten
-- ARGV[1]  JSON:
--            clock         microseconds, for tests; null for Redis's own, by which keys expire
--            place_kept, released_kept   microseconds
--            most_released   names
--            operations      ['acquire', name, most, lease, asker], ['renew', name, most, lease],
--                            ['release', name, asker]
-- Returns  for each operation three integers: how many are ahead, or 1 for what was done and 0 for
--          what was not; the microseconds it has waited; when it arrived in the queue.
--
-- Times are whole microseconds, which doubles hold exactly for some 280 years.

local MOST_SWEPT = 1000  -- so that no call takes long

local state, inside, queue, asked, released = unpack(KEYS)
local call = cjson.decode(ARGV[1])

local own_clock = call.clock == cjson.null
local clock = call.clock
if own_clock then
  local time = redis.call('TIME')
  clock = time[1] * 1000000 + time[2]
end

local function exact(number)
  return string.format('%.0f', number)
end

-- A clock that was set back, or a replica's that is behind, must not lengthen leases: each bucket's
-- own time goes on from where it was. One that is set forward ends them, as far as anyone can tell.
local then_ = redis.call('HMGET', state, 'seen', 'shift')
local seen, shift = tonumber(then_[1]) or -math.huge, tonumber(then_[2]) or 0
if clock + shift < seen then
  shift = seen - clock
end
local now = clock + shift

local function forget(name)
  local was_inside = redis.call('ZREM', inside, name) == 1
  local was_queued = redis.call('ZREM', queue, name) == 1
  redis.call('ZREM', asked, name)
  redis.call('HDEL', state, 'by:' .. name)
  return was_inside or was_queued
end

local function forget_until(key, time)
  local names = redis.call('ZRANGEBYSCORE', key, '-inf', exact(time), 'LIMIT', 0, MOST_SWEPT)
  for _, name in ipairs(names) do
    forget(name)
  end
end

forget_until(inside, now)
forget_until(asked, now - call.place_kept)
redis.call('ZREMRANGEBYSCORE', released, '-inf', exact(now))

local function has_released(name)
  return redis.call('ZSCORE', released, name)
end

-- Until when it holds a slot, if it does.
local function held_until(name)
  local till = tonumber(redis.call('ZSCORE', inside, name) or nil)
  return till and till > now and till
end

local function free_slots(most)
  return most - redis.call('ZCOUNT', inside, '(' .. exact(now), '+inf')
end

local function leave_queue(name)
  redis.call('ZREM', queue, name)
  redis.call('ZREM', asked, name)
end

local function arrival_of(name)
  local arrival = tonumber(redis.call('ZSCORE', queue, name) or nil)
  if not arrival then
    local last = redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')[2]
    arrival = math.max(now, (tonumber(last) or -math.huge) + 1)
    redis.call('ZADD', queue, exact(arrival), name)
  end
  return arrival
end

local function acquire(name, most, lease, asker)
  if has_released(name) then
    return 0, 0, 0
  end
  if asker ~= '' then
    redis.call('HSET', state, 'by:' .. name, asker)
  end
  if held_until(name) then
    return 0, 0, 0
  end
  local arrival = arrival_of(name)
  local waited, free = math.max(0, now - arrival), free_slots(most)
  local before = redis.call('ZRANK', queue, name)
  if before >= free then
    redis.call('ZADD', asked, exact(now), name)
    return before - free + 1, waited, arrival
  end
  leave_queue(name)
  redis.call('ZADD', inside, exact(now + lease), name)
  return 0, waited, arrival
end

local function renew(name, most, lease)
  local till = held_until(name)
  if has_released(name) or not till and free_slots(most) <= 0 then
    return 0, 0, 0
  end
  leave_queue(name)
  redis.call('ZADD', inside, exact(math.max(till or 0, now + lease)), name)
  return 1, 0, 0
end

local function release(name, asker)
  if asker ~= '' and redis.call('HGET', state, 'by:' .. name) ~= asker then
    return 0, 0, 0
  end
  local was_here = forget(name)
  if asker == '' then
    redis.call('ZADD', released, exact(now + call.released_kept), name)
    redis.call('ZREMRANGEBYRANK', released, 0, -call.most_released - 1)
  end
  return was_here and 1 or 0, 0, 0
end

local by_name = {acquire = acquire, renew = renew, release = release}
local answers = {}
for _, operation in ipairs(call.operations) do
  local what, waited, arrival = by_name[operation[1]](unpack(operation, 2))
  answers[#answers + 1], answers[#answers + 2], answers[#answers + 3] = what, waited, arrival
end

redis.call('HSET', state, 'seen', exact(now), 'shift', exact(shift))
if own_clock then
  -- (2 ms later, since Redis counts whole ones from before the script began.)
  local function expire(key, microseconds)
    redis.call('PEXPIRE', key, exact(math.ceil(microseconds / 1000) + 2))
  end
  local last = tonumber(redis.call('ZRANGE', inside, -1, -1, 'WITHSCORES')[2]) or now
  expire(inside, last - now)
  expire(queue, call.place_kept)
  expire(asked, call.place_kept)
  expire(released, call.released_kept)
  expire(state, math.max(last - now, call.place_kept, call.released_kept))
end
return answers
