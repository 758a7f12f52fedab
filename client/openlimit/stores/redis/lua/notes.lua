-- Notes that all who share the Redis see, each until its time by the clock of Redis.
--
-- KEYS[1]  the notes, a hash: by name the time and the text
-- ARGV[1]  JSON:
--            clock   microseconds, for tests; null for Redis's own
--            notes   [name, text, until] each, as in views.py
-- Returns  the time, and of each note that is kept: the name, until when, and the text. Times are
--          texts.

local key, call = KEYS[1], cjson.decode(ARGV[1])
local clock = call.clock
if clock == cjson.null then
  local time = redis.call('TIME')
  clock = time[1] * 1000000 + time[2]
end
local changed, latest = false, 0
for _, note in ipairs(call.notes) do
  local name, text, until_ = unpack(note)
  if text ~= '' then
    redis.call('HSET', key, name, string.format('%.0f ', until_) .. text)
    changed = true
  elseif name ~= '' then
    redis.call('HDEL', key, name)
  end
end
local answers, stored = {string.format('%.0f', clock)}, redis.call('HGETALL', key)
for i = 1, #stored, 2 do
  local until_, text = string.match(stored[i + 1], '^(%d+) (.*)$')
  if tonumber(until_) <= clock then
    redis.call('HDEL', key, stored[i])
  else
    latest = math.max(latest, tonumber(until_))
    answers[#answers + 1], answers[#answers + 2], answers[#answers + 3] = stored[i], until_, text
  end
end
if changed and latest > 0 and call.clock == cjson.null then
  redis.call('PEXPIREAT', key, string.format('%.0f', math.ceil(latest / 1000)))
end
return answers
