-- Carries out the operations. In order, each is one of
--
--   ['ask', name, path, rules, costs, lease, server, max_wait, lot, number, first, kept]
--   ['cancel', name, path, rules, costs, lot, number, start, is_known]
--   ['settle', name, path, rules, costs, lot, number, start, actual]
--   ['renew', name, path, rules, costs, lease, start]
--   ['giveup', name, server]  ['release', name]  ['where', name]
--   ['penalize', length]  ['observe', levels]  ['turn', server]
--
-- rules are places in call.rules, of the root and of each node of the path; costs are by unit; max_wait
-- is negative for no bound, first false for now. The answers, with doubles as texts, are
--
--   ask       8 and the first question; 4, start, unit, lot and number; 6; 2, which node and which
--             limit, counted from 0; 3, the wait and the unit; or 9, what is full and how many it holds
--   where     0; or 10, the rank, the wait, the unit, how deep the node is that is held, -1 for none,
--             and the values on its path
--   turn      the epoch; the microseconds until something is due; how many outcomes, and of each 1 or
--             3, the name, the start or the wait, the unit, lot and number
--   others    1, 0, 5 or 7, see call.lua

local function ids_of(path)
  local ids, id = {}, ''
  for i, value in ipairs(path) do
    id = id .. #value .. ':' .. value
    ids[i] = id
  end
  read_nodes(ids)
  return ids
end

local function told_to(node, rules)
  if node.rules ~= rules and node.rules.digest ~= rules.digest then
    follow_rules(node, rules)
    let_go(node)
  end
end

-- The leaf of a call, made if there is none; its path follows the call's rules.
local function leaf_of(path, which)
  local node = root
  told_to(root, told[which[1]])
  for i, id in ipairs(ids_of(path)) do
    local rules = told[which[i + 1]]
    local child = find(id) or new_child(node, id, rules)
    told_to(child, rules)
    node = child
  end
  return node
end

-- Why a call cannot wait here; nothing where it can.
local function refusal(path, which, costs, deadline)
  for k, each in ipairs(which) do
    local rules = told[each]
    for i = 1, rules.n do
      if (costs[rules.units[i]] or 0) > rules.amount[i] then
        return {EXCEEDS_LIMIT, k - 1, i - 1}
      end
    end
  end
  local node, known = root, {root}
  for _, id in ipairs(ids_of(path)) do
    node = find(id)
    if not node then
      break
    end
    known[#known + 1] = node
  end
  for _, each in ipairs(known) do
    local start, unit = earliest(each, costs)
    if start > deadline then
      return {WAIT_TOO_LONG, exact(start - now), unit}
    end
  end
  local last = known[#known]
  local value = path[#known - 1] or ''
  if root.waiting >= call.in_tree then
    return {FULL, 'the line', call.in_tree}
  elseif known[2] and known[2].waiting >= call.below_child then
    return {FULL, path[1], call.below_child}
  elseif #known == #which and last.waiting >= call.in_leaf then
    return {FULL, value, call.in_leaf}
  elseif #known < #which and last.children >= call.children then
    return {FULL, value, call.children}
  end
end

local carry_out = {}

local function put_anew(name, entry, server)
  if server ~= entry.server then
    remove('of', part_of(entry.server) .. '/' .. name)
    entry.server = server
    add('of', 0, part_of(server) .. '/' .. name)
    keep_call(name, entry)
  end
end

function carry_out.ask(name, path, which, costs, lease, server, max_wait, lot, number, first_, kept_)
  local grant, entry = grant_of(name), waiting_call(name)
  if is_silent(server) then
    sign(server)
  end
  if grant then
    if is_cancelled(grant.lot, grant.number) then
      return {CANCELLED}
    end
    grant.is_known = true
    keep_grant(name, grant)
    return {REPEAT, exact(grant.start), grant.unit, grant.lot, grant.number}
  elseif entry and not entry.out then
    put_anew(name, entry, server)
    return {IN_LINE, exact(entry.first)}
  end
  first_ = math.min(first_ or now, entry and entry.first or now, now)
  local deadline = max_wait < 0 and INF or first_ + max_wait
  local refused = refusal(path, which, costs, deadline)
  if entry then
    forget_call(name, entry)
  end
  if refused then
    return refused
  end
  local leaf = leaf_of(path, which)
  entry = {leaf = leaf.id, first = first_, deadline = deadline, costs = costs, lease = lease,
           delayed_by = '', server = server, lot = lot, number = number, kept = kept_, out = false}
  add('of', 0, part_of(server) .. '/' .. name)
  keep_call(name, entry)
  put_in(name, entry, leaf)
  return {IN_LINE, exact(first_)}
end

function carry_out.giveup(name, server)
  local entry = waiting_call(name)
  if not entry or entry.server ~= server then
    return {NO}
  end
  if not entry.out then
    take_out(name, entry)
  end
  forget_call(name, entry)
  return {entry.out and NO or YES}
end

function carry_out.cancel(name, path_, which, costs, lot, number, start, is_known)
  if now >= start + call.settled_within then
    return {TOO_LATE}
  elseif is_known and start <= now or is_cancelled(lot, number) then
    return {NO}
  end
  local _, mark_cancelled = marks_of_lots()
  mark_cancelled(call.lots .. lot, number, start)
  free_slots(name, false)
  local path = path_to(leaf_of(path_, which))
  local spans = sizes(path, costs)
  for k, node in ipairs(path) do
    refund(node, costs, start)
    give_turn_back(node, spans[k - 1])
  end
  corrected(path)
  return {YES}
end

function carry_out.settle(_, path_, which, costs, lot, number, start, actual)
  if start > now then
    return {NOT_STARTED}
  end
  local mark = marks_of_lots()
  local others = mark(call.lots .. lot, {number}, {start}, {})
  if others[1] then
    return {others[1]}
  end
  local path = path_to(leaf_of(path_, which))
  local before, after = sizes(path, costs), sizes(path, actual)
  for k, node in ipairs(path) do
    replace(node, costs, actual)
    if k > 1 then
      learn(node, before[k - 1], after[k - 1])
    end
  end
  fill(path)
  corrected(path)
  return {YES}
end

function carry_out.release(name)
  return {free_slots(name, true) and YES or NO}
end

function carry_out.renew(name, path_, which, costs, lease, start)
  sweep_line()
  local held, until_ = lease_of(name), now + lease
  if held then
    held.until_ = math.max(held.until_, until_)
    keep_lease(name, held)
    return {YES}
  end
  local path, has_slots = path_to(leaf_of(path_, which)), true
  for _, node in ipairs(path) do
    has_slots = has_slots and has_free_slot(node)
  end
  if has_slots then
    take_slots(name, path, {until_ = until_, start = start, sizes = sizes(path, costs)})
  end
  rest(path[#path])
  return {has_slots and YES or NO}
end

function carry_out.penalize(length)
  correct_root('penalize', length)
  corrected({root})
  return {YES}
end

function carry_out.observe(levels)
  correct_root('observe', levels)
  corrected({root})
  return {YES}
end

function carry_out.where(name)
  local entry = waiting_call(name)
  if not entry or entry.out then
    return {NO}
  end
  local rank, wait, node, unit = standing_of(name, entry)
  local values = node and values_to(node) or {}
  return {STANDING, rank, exact(wait), unit, node and #values or -1, unpack(values)}
end

function carry_out.turn(server)
  sign(server)
  if meta.boxed > 0 then
    empty_outbox(server, INF, MOST_ARGUMENTS, function(packed)
      outcomes[#outcomes + 1] = packed
    end)
  end
  decide(is_silent, teller(server))
  local loss = redis.call('HGET', key_of('losses'), server)
  local found = {meta.epoch .. '.' .. loss, exact(math.max(0, next_at() - now)), #outcomes}
  for _, packed in ipairs(outcomes) do
    local _, what, name, time, unit, lot, number = cmsgpack.unpack(packed)
    found[#found + 1], found[#found + 2], found[#found + 3] = what, name, exact(time)
    found[#found + 1], found[#found + 2], found[#found + 3] = unit, lot, number
  end
  outcomes = {}
  return found
end

-- A tree in which nothing has happened that still matters is as good as a new one.
local function begin_anew()
  redis.call('DEL', tree_key, key_of('holds'), key_of('emptying'), key_of('lapsing'))
  nodes, followers, dropped = {}, {}, {}
  root = new_node('', nil, told[call.root] or root.rules)
  nodes[''] = root
end

local function is_idle()
  return root.waiting == 0 and meta.leases == 0 and meta.boxed == 0 and root.empty_at <= now
    and idle_at(root) <= now and (root.children > 0 or root.clock > 0 or root.started_at > -INF)
end

do
  local asked = {}
  for _, operation in ipairs(call.operations) do
    if operation[1] == 'ask' then
      asked[#asked + 1] = operation[2]
    end
  end
  read_calls(asked)
  read_granted(asked)
  sweep_servers()
  for _, operation in ipairs(call.operations) do
    if is_idle() then
      begin_anew()
    end
    for _, each in ipairs(carry_out[operation[1]](unpack(operation, 2))) do
      answer(each)
    end
  end
end
