-- The nodes of the tree: what tree.py has in a Node. Those that are touched are read once and written
-- once.

local nodes = {}  -- by id; false where there is none
local followers = {}  -- by digest of rules: of how many nodes more than before
local dropped = {}  -- fields of the tree

local function next_order()
  meta.order = meta.order + 1
  return meta.order
end

local function count_rules(rules, change)
  followers[rules.digest] = (followers[rules.digest] or 0) + change
end

local function new_node(id, parent, rules)
  local level_ = {}
  for i = 1, rules.n do
    level_[i] = 0
  end
  count_rules(rules, 1)
  return {id = id, parent = parent, rules = rules, born = next_order(),
          under = parent and parent.born or 0, at = -INF, by = '', level = level_, running = 0,
          finish = 0, clock = 0, use = 1, weights = 0, children = 0, turn = false, waiting = 0,
          places = 0, ready = 0, held_until = -INF, held_by = '', held_for = '', hold_at = false,
          hold_turn = 0, empty_at = -INF, resting = false, started_at = -INF, pace = 0, lapsing = 0}
end

local function read_node(id, packed)
  local r, digest = {id = id, packed = packed}, nil
  r.born, r.under, digest, r.at, r.by, r.level, r.running, r.finish, r.clock, r.use, r.weights,
    r.children, r.turn, r.waiting, r.places, r.ready, r.held_until, r.held_by, r.held_for, r.hold_at,
    r.hold_turn, r.empty_at, r.resting, r.started_at, r.pace, r.lapsing = cmsgpack.unpack(packed)
  r.rules = rules_of(digest)
  return r
end

local function pack_node(r)
  return cmsgpack.pack(r.born, r.under, r.rules.digest, r.at, r.by, r.level, r.running, r.finish,
    r.clock, r.use, r.weights, r.children, r.turn, r.waiting, r.places, r.ready, r.held_until,
    r.held_by, r.held_for, r.hold_at, r.hold_turn, r.empty_at, r.resting, r.started_at, r.pace,
    r.lapsing)
end

-- The ids of the nodes on the way to one, without the root's.
local function ids_to(id)
  local ids, from = {}, 1
  while from <= #id do
    local colon = string.find(id, ':', from, true)
    local to = colon + tonumber(string.sub(id, from, colon - 1))
    ids[#ids + 1] = string.sub(id, 1, to)
    from = to + 1
  end
  return ids
end

local function read_nodes(ids)
  local missing = {}
  for _, id in ipairs(ids) do
    if nodes[id] == nil then
      missing[#missing + 1] = 'n:' .. id
    end
  end
  for from = 1, #missing, MOST_ARGUMENTS do
    local to = math.min(from + MOST_ARGUMENTS - 1, #missing)
    for i, packed in ipairs(redis.call('HMGET', tree_key, unpack(missing, from, to))) do
      local id = string.sub(missing[from + i - 1], 3)
      nodes[id] = packed and read_node(id, packed)
    end
  end
end

local forget_below

-- Forgets a node, and all below.
local function forget_node(node)
  nodes[node.id] = false
  dropped[#dropped + 1] = 'n:' .. node.id
  count_rules(node.rules, -1)
  if node.hold_at then
    remove('holds', fixed(node.hold_turn) .. node.id, node.hold_at)
  end
  forget_below(node)
end

-- What is kept below a node that nobody needs: all of that lapses, since nothing waits or runs there.
function forget_below(node)
  if node.lapsing == 0 then
    return
  end
  local ids = {}
  flush('lapsing')
  for i, member in ipairs(of_part('lapsing', node.id)) do
    ids[i] = string.match(string.sub(member, #node.id + 26), '^%d+ (.*)$')
  end
  redis.call('ZREMRANGEBYLEX', key_of('lapsing'), '[' .. node.id .. '/', '(' .. node.id .. '0')
  node.lapsing = 0  -- it is still on the path of what has just started
  read_nodes(ids)
  for _, id in ipairs(ids) do
    if nodes[id] and nodes[id].under == node.born then
      forget_node(nodes[id])
    end
  end
end

-- The child of a node with this id, if it is kept.
local function below(parent, id)
  local node = nodes[id]
  if node == nil then
    local packed = redis.call('HGET', tree_key, 'n:' .. id)
    node = packed and read_node(id, packed)
    nodes[id] = node
  end
  if node and not node.parent then
    if node.under ~= parent.born then  -- one that was forgotten had it
      forget_node(node)
      return false
    end
    node.parent = parent
  end
  return node
end

-- The node with this id, if it is kept.
local function find(id)
  local node = nodes[id]
  if node and (node.parent or id == '') then
    return node
  end
  local ids = ids_to(id)
  read_nodes(ids)
  for i, each in ipairs(ids) do
    node = below(nodes[ids[i - 1] or ''], each)
    if not node then
      return nil
    end
  end
  return node
end

-- The nodes from the root to this one.
local function path_to(node)
  if not node.path then
    local path, depth, above = {}, 0, node
    while above do
      depth, above = depth + 1, above.parent
    end
    above = node
    for k = depth, 1, -1 do
      path[k], above = above, above.parent
    end
    node.path = path
  end
  return node.path
end

-- The values of the levels' labels on the way to a node.
local function values_to(node)
  local values = {}
  for i, each in ipairs(path_to(node)) do
    if i > 1 then
      local own = string.sub(each.id, #each.parent.id + 1)
      values[i - 1] = string.sub(own, string.find(own, ':', 1, true) + 1)
    end
  end
  return values
end

local function new_child(parent, id, rules)
  local node = new_node(id, parent, rules)
  nodes[id] = node
  parent.children = parent.children + 1
  parent.weights = parent.weights + rules.weight
  return node
end

local function drop(node)
  local parent = node.parent
  parent.children = parent.children - 1
  parent.weights = parent.children > 0 and parent.weights - node.rules.weight or 0
  forget_node(node)
end

-- Goes on with other rules; what is poured and who runs stays.
local function follow_rules(node, rules)
  local before = node.rules
  if node.parent then
    node.parent.weights = node.parent.weights + (rules.weight - before.weight)
    local levels = {}
    for i, name in ipairs(rules.names) do
      local which = before.of_name[name]
      levels[i] = math.min(which and node.level[which] or 0, rules.most[i])
    end
    node.level = levels
    if before.limited ~= rules.limited and not rules.of_unit[node.by] then
      node.by = ''
    end
  end
  count_rules(before, -1)
  count_rules(rules, 1)
  node.rules = rules
end

-- What is kept beside the tree, and expires a moment later: of one that has expired, nothing counts.
local BESIDE = {'calls', 'places', 'ready', 'lapsing', 'holds', 'emptying', 'deadlines', 'leases', 'ends',
                'servers', 'of', 'outbox'}
if not stored[2] then
  local left = {}
  for i, what in ipairs(BESIDE) do
    left[i] = key_of(what)
  end
  redis.call('UNLINK', unpack(left))
end

nodes[''] = stored[2] and read_node('', stored[2]) or new_node('', nil, root_rules)
local root = nodes['']
