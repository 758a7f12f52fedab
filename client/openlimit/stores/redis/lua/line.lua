-- The line: what line.py does about who is next, what holds nodes, and when they can be forgotten.

-- Calls that wait, by name: leaf, its id; first and deadline; costs, by unit; lease; delayed_by;
-- server, that holds the caller; lot and number; kept; out, where it was taken out of the line for its
-- server is silent. False where there is none.
local waiting = {}
local changed_calls = {}

local function read_calls(names_)
  for i, packed in ipairs(#names_ > 0 and redis.call('HMGET', key_of('calls'), unpack(names_)) or {}) do
    local r = packed and {}
    if packed then
      r.leaf, r.first, r.deadline, r.costs, r.lease, r.delayed_by, r.server, r.lot, r.number, r.kept,
        r.out = cmsgpack.unpack(packed)
    end
    waiting[names_[i]] = r
  end
end

local function waiting_call(name)
  if waiting[name] == nil then
    read_calls({name})
  end
  return waiting[name]
end

local function part_of(server)
  return #server .. ':' .. server
end

local function keep_call(name, entry)
  waiting[name], changed_calls[name] = entry, true
end

-- Of one that waits, or waits no more: nothing is kept of it here.
local function forget_call(name, entry)
  keep_call(name, false)
  remove('of', part_of(entry.server) .. '/' .. name)
end

local function place_in(leaf, first_, name)
  return leaf.id .. '/' .. sortable(first_) .. name
end

-- The place of the first in a leaf. What has changed in others need not be written before.
local function first_place(leaf)
  if leaf.has_changed then
    flush('places')
    leaf.has_changed = false
  end
  return of_part('places', leaf.id, 'LIMIT', 0, 1)[1]
end

-- When nodes can be forgotten: see kept.py -------------------------------------------------------

local rest, lapse, look_after_mentioned
do
  local function mention(node)
    return fixed(next_order()) .. node.born .. ' ' .. node.id
  end

  local function look_after(node)
    local parent = node.parent
    node.resting = parent ~= nil and node.waiting == 0 and node.running == 0
    if not node.resting then
      return
    end
    if node.empty_at > now then
      add('emptying', node.empty_at, mention(node))
    elseif node.finish > parent.clock then
      parent.lapsing = parent.lapsing + 1
      add('lapsing', 0, parent.id .. '/' .. sortable(node.finish) .. mention(node))
    elseif nodes[node.id] == node then
      drop(node)
    end
  end

  -- Forgets this node, and those above it, when that makes no difference.
  function rest(node)
    while node and node.waiting == 0 and node.running == 0 do  -- else those above it do not rest, either
      if not node.resting then
        look_after(node)
      end
      node = node.parent
    end
  end

  function look_after_mentioned(text)
    local born, id = string.match(text, '^(%d+) (.*)$')
    local node = find(id)
    if node and node.born == tonumber(born) then
      look_after(node)
    elseif not node and nodes[id] then  -- what it was below was forgotten before
      forget_node(nodes[id])
    end
  end

  -- Forgets the children that the clock of a node has passed.
  function lapse(parent)
    while parent.lapsing > 0 do
      flush('lapsing')
      local member = of_part('lapsing', parent.id, 'LIMIT', 0, 1)[1]
      local from = #parent.id + 2
      if struct.unpack('>d', string.sub(member, from, from + 7)) > parent.clock then
        return
      end
      remove('lapsing', member)
      parent.lapsing = parent.lapsing - 1
      look_after_mentioned(string.sub(member, from + 24))
    end
  end
end

-- What holds nodes -------------------------------------------------------------------------------

-- Begins to take turns: what it did not use before is lost.
local function catch_up(node)
  if node.parent then
    node.finish = math.max(node.finish, node.parent.clock)
  end
end

-- Holds a node no longer.
local function let_go(node)
  node.held_until, node.held_for = -INF, ''
  while node and is_ready(node) and not node.turn do
    if node.parent then
      catch_up(node)
      place(node, next_order())
    end
    node = node.parent
  end
end

-- Takes its turn from a node that is not ready, and from those above it likewise.
local function leave(node)
  while node and not is_ready(node) do
    leave_turn(node)
    node = node.parent
  end
end

-- Lets nothing below a node start until then.
local function hold(node, until_, unit, name)
  node.held_until, node.held_by, node.held_for = until_, unit, name
  if until_ < INF and node.hold_at ~= until_ then
    if node.hold_at then
      remove('holds', fixed(node.hold_turn) .. node.id, node.hold_at)
    end
    node.hold_at, node.hold_turn = until_, next_order()
    add('holds', until_, fixed(node.hold_turn) .. node.id)
  end
  leave(node)
end

-- Whose hold this is; of one that is held no longer, or for something else, nothing is left.
local function take_hold(member)
  local node = find(string.sub(member, 17))
  local until_ = node.hold_at
  remove('holds', member, until_)
  node.hold_at = false
  return node.held_until == until_ and node
end

-- Looks anew at what was held by levels that are no longer so.
local function corrected(path)
  for _, node in ipairs(path) do
    if node.held_until > -INF and node.held_until < INF then
      let_go(node)
    end
  end
  rest(path[#path])
end
