-- Who is next: what line.py decides, and what servers are told of it.

-- Takes a call out of the line, uncharged.
local function take_out(name, entry)
  local leaf = find(entry.leaf)
  remove('places', place_in(leaf, entry.first, name))
  leaf.places, leaf.has_changed = leaf.places - 1, true
  if entry.deadline < INF then
    remove('deadlines', name, entry.deadline)
  end
  local node = leaf
  while node do
    node.waiting = node.waiting - 1
    if node.held_for == name then
      let_go(node)
    end
    node = node.parent
  end
  leave(leaf)
  rest(leaf)
end

local function put_in(name, entry, leaf)
  add('places', 0, place_in(leaf, entry.first, name))
  leaf.places, leaf.has_changed = leaf.places + 1, true
  if entry.deadline < INF then
    add('deadlines', entry.deadline, name)
  end
  local node = leaf
  while node do
    node.waiting = node.waiting + 1
    node = node.parent
  end
  -- A leaf that has its turn keeps it, whoever is first.
  if leaf.places == 1 or not leaf.turn and first_place(leaf) == place_in(leaf, entry.first, name) then
    let_go(leaf)
  end
end

-- Where a call stands that has this rank in its leaf: the wait in microseconds, the node that is held
-- or nil, and the unit.
local function standing_at(leaf, rank, costs, lease)
  local held, pace, rest_ = leaf, leaf.pace, 0
  while held and held.held_until == -INF do
    held = held.parent
  end
  if held and held.held_until < INF then
    rest_ = math.max(0, held.held_until - now)
  elseif held and pace == 0 then  -- as if every call took its lease
    pace = lease / held.rules.slots
  end
  local wait
  if pace > 0 then
    wait = math.max(rank * pace, rest_)
  else  -- none has started here after a wait: as if all were like this one, and no others came
    local path = path_to(leaf)
    wait = rest_ + (rank - 1) * sizes(path, costs)[#path]
  end
  return wait, held, held and held.held_by or ''
end

-- Its rank, and where it stands.
local function standing_of(name, entry)
  local leaf = find(entry.leaf)
  flush('places')
  local rank = redis.call('ZLEXCOUNT', key_of('places'), '[' .. leaf.id .. '/',
                          '[' .. place_in(leaf, entry.first, name))
  return rank, standing_at(leaf, rank, entry.costs, entry.lease)
end

local function start_call(name, entry, path, start, unit)
  local leaf, spans = path[#path], sizes(path, entry.costs)
  for k, node in ipairs(path) do
    pour(node, entry.costs, spans[k - 1], start, unit)
  end
  if entry.lease > 0 then
    free_slots(name, false)  -- of a start that was forgotten
    take_slot(name, path, start + entry.lease, start, spans)
  end
  fill(path)
  local interval = math.max(0, now - math.max(leaf.started_at, entry.first))
  leaf.pace = leaf.pace + (interval - leaf.pace) * (leaf.pace ~= 0 and call.latest_pace or 1)
  leaf.started_at = now
  take_out(name, entry)
  for k = 1, #path - 1 do
    lapse(path[k])
  end
end

-- Starts the call whose turn it is, refuses it, or passes it over, and returns what became of it, its
-- name, entry, start or wait, unit, and the node that causes the wait; or holds the node that delays it,
-- and returns nothing.
local function decide_next(is_silent)
  local leaf = root
  while leaf.places == 0 do  -- what waits at a node came before it had children, see waits_at
    leaf = first_ready(leaf)
  end
  local member = first_place(leaf)
  local name = string.sub(member, #leaf.id + 10)
  local entry = waiting_call(name)
  if is_silent(entry.server) then
    take_out(name, entry)
    return NO, name, entry
  end
  local path, costs = path_to(leaf), entry.costs
  local start, unit = earliest(root, costs)
  local latest, latest_by, latest_at = start, unit, root
  local held, until_, held_by = nil, start - call.horizon, unit
  if until_ > now then
    held = root
  end
  for _, node in ipairs(path) do
    local ready_at, by = start, unit
    if node ~= root then
      ready_at, by = earliest(node, costs)
    end
    if ready_at > latest then
      latest, latest_by, latest_at = ready_at, by, node
    end
    if not has_free_slot(node) then
      held, until_, held_by = node, INF, 'concurrent'
    elseif ready_at > start then
      held, until_, held_by = node, ready_at, by
    end
  end
  if latest > entry.deadline then
    take_out(name, entry)
    return WAIT_TOO_LONG, name, entry, latest - now, latest_by, latest_at
  elseif held then
    entry.delayed_by = held_by
    keep_call(name, entry)
    hold(held, until_, held_by, name)
    return
  end
  start_call(name, entry, path, start, unit)
  return YES, name, entry, start, start > now and unit or entry.delayed_by
end

-- Decides what is decided by now, and hands each to a function; at most so many. Nodes that are held
-- count a tenth.
local function decide(is_silent, tell)
  sweep_line()
  local done, tried = 0, 0
  while is_ready(root) and done < call.at_once and tried < 10 * call.at_once do
    tried = tried + 1
    local what, name, entry, time, unit, node = decide_next(is_silent)
    if what then
      tell(what, name, entry, time, unit, node)
      done = done + 1
    end
  end
  if done == call.at_once then
    return
  end
  for _, name in ipairs(due('deadlines', call.at_once - done)) do
    local entry = waiting_call(name)
    local _, wait, node, unit = standing_of(name, entry)
    take_out(name, entry)
    tell(WAIT_TOO_LONG, name, entry, wait, unit, node)
  end
end

-- When to decide next, unless something happens before. Of many holds that are over before their time,
-- some are taken out now, and more in later calls: until then, it may be too early.
local function next_at()
  if is_ready(root) then
    return -INF
  end
  for _ = 1, call.at_once do
    if head_of('holds') == INF then
      break
    end
    flush('holds')
    local head = redis.call('ZRANGE', key_of('holds'), 0, 0)[1]
    if find(string.sub(head, 17)).held_until == heads.holds then
      break
    end
    take_hold(head)
  end
  return math.min(head_of('holds'), head_of('deadlines'), head_of('ends'))
end
