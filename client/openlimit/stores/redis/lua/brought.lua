-- Asks for a start: what calls bring, their paths and rules, and whether they can wait.

local IN_LINE, FULL = 8, 9

local function told_to(node, rules)
  if node.rules ~= rules and node.rules.digest ~= rules.digest then
    follow_rules(node, rules)
    let_go(node)
  end
end

-- The nodes of a path that are kept, of which those below the root follow these rules from now on; and
-- the ids of these.
local function known_on(path, which)
  local ids, known, id, node = {}, {root}, '', root
  for i, value in ipairs(path) do
    id = id .. #value .. ':' .. value
    ids[i] = id
  end
  read_nodes(ids)
  for i, each in ipairs(ids) do
    node = below(node, each)
    if not node then
      break
    end
    known[i + 1] = node
    told_to(node, told[which[i + 1]])
  end
  return known, ids
end

-- The leaf of a call; it, and what is missing above it, is made.
local function made_below(known, ids, which)
  local node = known[#known]
  for i = #known, #ids do
    node = new_child(node, ids[i], told[which[i + 1]])
  end
  return node
end

local function leaf_of(path, which)
  local known, ids = known_on(path, which)
  return made_below(known, ids, which)
end

-- The same; or the last node above what is missing, where that has no room for another child.
local function leaf_with_room(path, which)
  local known, ids = known_on(path, which)
  local last = known[#known]
  return #known < #which and last.children >= call.children and last or made_below(known, ids, which)
end

-- Where a call waits. While a rollout adds levels or takes some away, its path may end where those of
-- other servers go on: there it waits beside their children, like a call without the label.
local function waits_at(node)
  while node.children > 0 do
    local id = node.id .. '0:'
    node = below(node, id) or new_child(node, id, known_rules.none or read_rules('none', 1, -1, {}))
  end
  return node
end

-- The node at this depth of a path, for people.
local function where_of(path, depth)
  local values = {}
  for i = 1, depth do
    values[i] = path[i] == '' and "''" or path[i]
  end
  return depth > 0 and table.concat(values, '/') or 'the line'
end

-- Why a call cannot wait here; nothing where it can.
local function refusal(known, path, which, costs, deadline, lease)
  for k, each in ipairs(which) do
    local rules = told[each]
    for i = 1, rules.n do
      if (costs[rules.units[i]] or 0) > rules.amount[i] then
        return {EXCEEDS_LIMIT, k - 1, i - 1}
      end
    end
  end
  local latest, unit, depth, last = deadline, '', nil, known[#known]
  for k = 1, deadline < INF and #known or 0 do
    local start, by = earliest(known[k], costs)
    if start > latest then
      latest, unit, depth = start, by, k - 1
    end
  end
  if depth then  -- those who stand in its leaf come before it, too
    local behind = last.places > 0 and standing_at(last, last.places + 1, costs, lease) or 0
    return {WAIT_TOO_LONG, exact(math.max(latest - now, behind)), unit, depth}
  end
  local where = where_of(path, #known - 1)
  if root.waiting >= call.in_tree then
    return {FULL, 'the line', call.in_tree}
  elseif known[2] and known[2].waiting >= call.below_child then
    return {FULL, where_of(path, 1), call.below_child}
  elseif #known == #which and last.waiting >= call.in_leaf then
    return {FULL, where, call.in_leaf}
  elseif #known < #which and last.children >= call.children then
    return {FULL, where, call.children}
  end
end

local function put_anew(name, entry, server)
  if server ~= entry.server then
    remove('of', part_of(entry.server) .. '/' .. name)
    entry.server = server
    add('of', 0, part_of(server) .. '/' .. name)
    keep_call(name, entry)
  end
end

local function ask(name, path, which, costs, lease, server, max_wait, lot, number, first_, kept_)
  local grant, entry = grant_of(name), waiting_call(name)
  if is_silent(server) then
    sign(server)
  end
  if grant then
    if is_cancelled(grant.lot, grant.number) then
      return {CANCELLED}
    end
    grant.is_known, grant.asked_by = true, grant.asked_by == server and server  -- else several have
    keep_grant(name, grant)
    return {REPEAT, exact(grant.start), grant.unit, grant.lot, grant.number}
  elseif entry and not entry.out then
    put_anew(name, entry, server)
    known_on(path, which)  -- as any call, it brings the rules that its server has now
    return {IN_LINE, exact(entry.first)}
  end
  if first_ or entry then
    first_ = math.min(first_ or now, entry and entry.first or now, now)
  else  -- of the calls of one moment, the first is first
    meta.asked = math.max(now, meta.asked + 1)
    first_ = meta.asked
  end
  local deadline = max_wait < 0 and INF or first_ + max_wait
  local known, ids = known_on(path, which)  -- its costs are by these rules, so its refusal is, too
  local refused = refusal(known, path, which, costs, deadline, lease)
  if entry then
    forget_call(name, entry)
  end
  if refused then
    return refused
  end
  local leaf = waits_at(made_below(known, ids, which))
  entry = {leaf = leaf.id, first = first_, deadline = deadline, costs = costs, lease = lease,
           delayed_by = '', server = server, lot = lot, number = number, kept = kept_, out = false}
  add('of', 0, part_of(server) .. '/' .. name)
  keep_call(name, entry)
  put_in(name, entry, leaf)
  return {IN_LINE, exact(first_)}
end
