-- Finds the buckets of policies, by their keys and those of their trees. Changes nothing. It has no
-- KEYS, so that every node of a cluster answers for its own.
--
-- ARGV[1]  JSON:
--            begin      how all keys begin; no character in it is wild
--            policies   what is between that and the next colon
--            keys       how many keys it goes through at most
--            most       how many of each policy it names
-- Returns  whether all keys were gone through, and all buckets named; then the keys of the buckets, and
--          for how many milliseconds each is kept: it expires when it is empty. Of a policy, those that
--          are kept longest come first.

local call = cjson.decode(ARGV[1])
local kept, names_of, cursor, looked, is_whole = {}, {}, '0', 0, 1
for _, policy in ipairs(call.policies) do
  names_of[policy] = {}
end
repeat
  local page = redis.call('SCAN', cursor, 'MATCH', call.begin .. '*', 'COUNT', 1000)
  cursor, looked = page[1], looked + 1000
  for _, key in ipairs(page[2]) do
    local names = names_of[string.match(key, '^[^:]*', #call.begin + 1)]
    local name = string.match(key, '^(.*})$') or string.match(key, '^(.*}):line:tree$')
    if names and name then
      if not kept[name] then
        names[#names + 1] = name
      end
      kept[name] = math.max(kept[name] or 0, redis.call('PTTL', key))
    end
  end
until cursor == '0' or looked >= call.keys
local answers = {0}
for _, policy in ipairs(call.policies) do
  local names = names_of[policy]
  table.sort(names, function(one, other)
    return kept[one] > kept[other]
  end)
  if #names > call.most then
    is_whole = 0
  end
  for i = 1, math.min(call.most, #names) do
    answers[#answers + 1], answers[#answers + 2] = names[i], kept[names[i]]
  end
end
answers[1] = cursor == '0' and is_whole or 0
return answers
