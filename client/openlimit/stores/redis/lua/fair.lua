-- Whose turn it is at each node, and what is poured there: what tree.py does. The root's bucket is the
-- one that state.lua has read; what bucket.py does to the others is here.

-- Moves its finish by a virtual time, and its place with it.
local function charge(node, time)
  local turn = node.turn
  if turn then
    leave_turn(node)
  end
  node.finish = node.finish + time
  if turn then
    place(node, turn)
  end
end

local function owe(node, size)
  if size > 0 and node.parent then
    local behind = node.turn and 0 or math.max(0, node.parent.clock - node.finish)
    charge(node, behind + size / node.rules.weight)
    node.parent.clock = node.parent.clock + size / node.parent.weights
  end
end

-- Learns what calls used, those at these positions, by their sizes at the parent.
local function learn(node, which, reserved, actual)
  local shortest, least, latest = call.shortest, call.least_use, call.latest_use
  for k = 1, #which do
    local i = which[k]
    local size, used = reserved[i], actual[i]
    if used > shortest then -- else the call was not made
      local share = used < size and used / size or 1
      node.use = node.use + ((share > least and share or least) - node.use) * latest
    end
    if used > size then
      owe(node, used - size)
    end
  end
end

local function give_turn_back(node, size)
  if node.parent then
    local service = size * node.use / node.rules.weight
    charge(node, -math.max(0, math.min(service, node.finish - node.parent.clock)))
  end
end

-- Costs are by unit. At each node of a path: the longest time that the limits of the node and of
-- those above it need to leak them.
local function sizes(path, costs)
  local longest, found = call.shortest, {}
  for k, node in ipairs(path) do
    local rules = node.rules
    for i = 1, rules.n do
      longest = math.max(longest, (costs[rules.units[i]] or 0) / rules.rate[i])
    end
    found[k] = longest
  end
  return found
end

-- When these costs could start at a node, and the unit that sets that.
local function earliest(node, costs)
  local at_, levels, by, rules, start = node.at, node.level, node.by, node.rules, now
  local until_ = -INF
  if node == root then
    at_, levels, by, rules, until_ = at, level, units[limited_by] or '', root_rules, paused
  end
  local unit = ''
  if at_ > now then
    start, unit = at_, by
  end
  if until_ > start then
    start, unit = until_, ''
  end
  for i = 1, rules.n do
    local cost, most = costs[rules.units[i]] or 0, rules.capacity[i]
    local excess = levels[i] + math.min(cost, most) - most
    if cost > 0 and excess > 0 then
      local ready_at = at_ + math.ceil(excess / rules.rate[i] - SLACK)
      if ready_at > start then
        start, unit = ready_at, rules.units[i]
      end
    end
  end
  return start, unit
end

local function leak(node, elapsed)
  local rates = node.rules.rate
  for i, each in ipairs(node.level) do
    node.level[i] = math.max(0, each - elapsed * rates[i])
  end
end

-- Charges the turn of a call of this size at the parent.
local function take_turn(node, size)
  local parent, service = node.parent, size * node.use
  local clock = parent.clock + service / parent.weights
  parent.clock = clock > node.finish and clock or node.finish
  charge(node, service / node.rules.weight)
end

-- Charges a call that starts, and its turn among its siblings.
local function pour(node, costs, size, start, unit)
  if node == root then
    level = leaked(level, start - at)
    for i = 1, n do
      level[i] = level[i] + (costs[units[i]] or 0)
    end
    end_queue()
    at, limited_by, changed = start, of_unit[unit] or 0, true
    return
  end
  leak(node, start - node.at)
  for i, each in ipairs(node.level) do
    node.level[i] = each + (costs[node.rules.units[i]] or 0)
  end
  node.at, node.by = start, unit
  take_turn(node, size)
end

-- Gives back what was poured at this start, as far as it has not leaked since.
local function refund(node, costs, start)
  local levels, rules, since = node.level, node.rules, node.at - start
  if node == root then
    levels, rules, since, changed = level, root_rules, at - start, true
  end
  for i, each in ipairs(levels) do
    local left = math.max(0, (costs[rules.units[i]] or 0) - rules.rate[i] * since)
    levels[i] = each - math.min(each, left)
  end
end

local correct_root
do
  local made
  function correct_root(what, ...)
    made = made or corrections()
    made[what](...)
  end
end

-- Changes the levels of a node by columns, one change after the other.
local function correct(node, changes)
  if node == root then
    return correct_root('correct', changes)
  end
  if now > node.at then
    leak(node, now - node.at)
    node.at, node.by = now, ''
  end
  for i, each in ipairs(node.level) do
    local most, column_ = node.rules.most[i], changes[i]
    for c = 1, #column_ do
      each = each + column_[c]
      each = each < 0 and 0 or each > most and most or each
    end
    node.level[i] = each
  end
end

-- From when on a bucket is as good as new.
local function idle_at(node)
  local at_, levels, rates, latest = node.at, node.level, node.rules.rate, node.at
  if node == root then
    at_, levels, rates, latest = at, level, rate, math.max(at, paused)
  end
  for i, each in ipairs(levels) do
    latest = math.max(latest, at_ + each / rates[i])
  end
  return latest
end

-- Keeps nodes until their buckets, and those below them, are empty.
local function fill(path)
  local empty_at = -INF
  for k = #path, 1, -1 do
    local node = path[k]
    empty_at = math.max(empty_at, node.empty_at, idle_at(node))
    node.empty_at = empty_at
  end
end
