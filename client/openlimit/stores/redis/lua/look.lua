-- Looks at a bucket and its tree. Changes nothing.
--
-- KEYS[1]  the bucket, see call.lua
-- KEYS[2]  its tree, see told.lua
-- ARGV[1]  JSON:
--            clock   microseconds, for tests; null for Redis's own
--            keys    how many fields of the tree it goes through at most
--            looks   [ids, most] each: ids of the nodes on a path, as far as they exist; or false, and
--                    then most of the nodes below the root, the busiest first, which is the root's id
-- Returns  the time; then for each look how many nodes; whether all were gone through; and of each
--          node: the id, at, the unit that set it, paused, running, waiting, held_until, the unit
--          for which it is held, pace, its share, the weights of its children, how many limits, and
--          of each the name and the level. Doubles are texts.

local INF = math.huge
local key, tree_key = KEYS[1], KEYS[2]
local call = cjson.decode(ARGV[1])
local state = redis.call('HMGET', key, 'at', 'paused', 'limited_by', 'units', 'seen', 'shift')
local stored = redis.call('HMGET', tree_key, 'meta', 'n:')

local function exact(number)
  return string.format('%.17g', number)
end

local clock = call.clock
if clock == cjson.null then
  local time = redis.call('TIME')
  clock = time[1] * 1000000 + time[2]
end
local seen, shift = tonumber(state[5]) or -INF, tonumber(state[6]) or 0
if stored[1] then
  local _, _, _, seen_, shift_ = cmsgpack.unpack_limit(stored[1], 4)
  seen, shift = math.max(seen, seen_), math.max(shift, shift_)
end
local now = math.max(clock + shift, seen)

-- Of limits of some digest: weight, names, capacities and rates.
local rules_of = {}
local function rules(digest)
  if not rules_of[digest] then
    local weight, _, limits = cmsgpack.unpack(redis.call('HGET', tree_key, 'r:' .. digest))
    local found = {weight = weight, names = {}, capacity = {}, rate = {}}
    for i, limit in ipairs(limits) do
      found.names[i], found.capacity[i], found.rate[i] = limit[1], limit[4], limit[5]
    end
    rules_of[digest] = found
  end
  return rules_of[digest]
end

local function parent_of(id)
  local from, last = 1, 0
  while from <= #id do
    local colon = string.find(id, ':', from, true)
    last, from = from - 1, colon + tonumber(string.sub(id, from, colon - 1)) + 1
  end
  return string.sub(id, 1, last)
end

-- The nodes by id; false where there is none, or one that what was above it left behind.
local nodes = {}

local function read_root()
  local root = {id = '', at = tonumber(state[1]) or -INF, by = state[3] or '',
                paused = tonumber(state[2]) or -INF, names = {}, level = {}, running = 0, waiting = 0,
                held_until = -INF, held_by = '', pace = 0, share = 1, weights = 0}
  for name in string.gmatch(state[4] or '', '%S+') do
    root.names[#root.names + 1] = name
  end
  for i, name in ipairs(root.names) do
    root.level[i] = tonumber(redis.call('HGET', key, 'level:' .. name)) or 0
  end
  if stored[2] then
    local r = {cmsgpack.unpack(stored[2])}
    root.born, root.running, root.weights, root.waiting = r[1], r[7], r[11], r[14]
    root.held_until, root.held_by, root.pace = r[17], r[18], r[25]
  end
  return (state[1] or stored[2]) and root
end

nodes[''] = read_root()

local function find(id, packed)
  if nodes[id] == nil then
    local parent = find(parent_of(id))
    packed = parent and (packed or redis.call('HGET', tree_key, 'n:' .. id))
    local r = packed and {cmsgpack.unpack(packed)}
    if r and r[2] == parent.born then
      local own = rules(r[3])
      nodes[id] = {id = id, born = r[1], at = r[4], by = r[5], paused = -INF, names = own.names,
                   level = r[6], running = r[7], waiting = r[14], held_until = r[17], held_by = r[18],
                   pace = r[25], share = own.weight / math.max(parent.weights, own.weight),
                   weights = r[11], rules = own}
    else
      nodes[id] = false
    end
  end
  return nodes[id]
end

local function fullest(node)
  local most = 0
  for i, level in ipairs(node.level) do
    local left = level - (now - node.at) * node.rules.rate[i]
    most = math.max(most, left / node.rules.capacity[i])
  end
  return most
end

local function on_path(ids)
  local found = {nodes['']}
  for _, id in ipairs(nodes[''] and ids or {}) do
    local node = find(id)
    if not node then
      break
    end
    found[#found + 1] = node
  end
  return found, 1
end

local function busiest(most)
  local below, cursor, looked = {}, '0', 0
  repeat
    local page = redis.call('HSCAN', tree_key, cursor, 'MATCH', 'n:?*', 'COUNT', 1000)
    cursor, looked = page[1], looked + 1000
    for i = 1, #page[2], 2 do
      local id = string.sub(page[2][i], 3)
      local node = find(id, page[2][i + 1])
      if node and not node.fullest then  -- a scan may tell one twice
        node.fullest = fullest(node)
        below[#below + 1] = node
      end
    end
  until cursor == '0' or looked >= call.keys
  table.sort(below, function(one, other)
    if one.waiting ~= other.waiting then
      return one.waiting > other.waiting
    end
    return one.fullest > other.fullest
  end)
  local found = {nodes['']}
  for i = 1, math.min(most, #below) do
    found[#found + 1] = below[i]
  end
  return found, cursor == '0' and 1 or 0
end

local answers = {exact(now)}
local function answer(value)
  answers[#answers + 1] = value
end

for _, look in ipairs(call.looks) do
  local found, is_whole = {}, 1
  if nodes[''] then
    if look[1] then
      found, is_whole = on_path(look[1])
    else
      found, is_whole = busiest(look[2])
    end
  end
  answer(#found)
  answer(is_whole)
  for _, node in ipairs(found) do
    answer(node.id)
    answer(exact(node.at))
    answer(node.by)
    answer(exact(node.paused))
    answer(node.running)
    answer(node.waiting)
    answer(exact(node.held_until))
    answer(node.held_by)
    answer(exact(node.pace))
    answer(exact(node.share))
    answer(exact(node.weights))
    answer(#node.names)
    for i, name in ipairs(node.names) do
      answer(name)
      answer(exact(node.level[i]))
    end
  end
end
return answers
