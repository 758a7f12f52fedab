-- Whose turn it is among the children of a node. The first ones are read once; what changes is written
-- once, at the end.

local function is_ready(node)
  return node.held_until == -INF and (node.places > 0 or node.ready > 0)
end

local function has_free_slot(node)
  return node.running < node.rules.slots
end

local flush_ready, place, leave_turn, first_ready, forget_windows
do
  local function turn_of(node)
    return node.parent.id .. '/' .. sortable(node.finish) .. fixed(node.turn) .. node.id
  end

  -- The first of the ready children of nodes, by id of the node: the very first is last. Those that come
  -- after bound and its turn are not there.
  local windows = {}
  local moved = {}  -- nodes whose place is to be written; their shelf is the one that was

  function flush_ready()
    for node in pairs(moved) do
      local place = node.turn and turn_of(node)
      if place ~= node.shelf then
        if node.shelf then
          remove('ready', node.shelf)
        end
        if place then
          add('ready', 0, place)
        end
        node.shelf = place
      end
    end
    moved = {}
  end

  local function read_window(node, window)
    window.width = math.min(4 * window.width, 64)
    local members = of_part('ready', node.id, 'LIMIT', 0, window.width)
    local count, from = #members, #node.id + 2
    for i, member in ipairs(members) do
      window[count + 1 - i] = {finish = struct.unpack('>d', string.sub(member, from, from + 7)),
                               turn = tonumber(string.sub(member, from + 8, from + 23)),
                               id = string.sub(member, from + 24)}
    end
    window.bound = count == window.width and window[1].finish or INF
    window.turn = count == window.width and window[1].turn or INF
  end

  local function window_of(node)
    local window = windows[node.id]
    if not window then
      window = {width = 1, bound = INF, turn = INF}
      windows[node.id] = window
      if node.ready > 0 then
        read_window(node, window)
      end
    end
    return window
  end

  -- Takes its place among the ready ones of its parent.
  function place(node, turn)
    local window, finish = window_of(node.parent), node.finish
    if node.shelf == nil then
      node.shelf = false
    end
    node.turn, moved[node] = turn, true
    node.parent.ready = node.parent.ready + 1
    if finish < window.bound or finish == window.bound and turn < window.turn then
      local i = #window
      while i > 0 and (window[i].finish < finish or window[i].finish == finish and window[i].turn < turn) do
        i = i - 1
      end
      table.insert(window, i + 1, {finish = finish, turn = turn, id = node.id})
    end
  end

  function leave_turn(node)
    if not node.turn then
      return
    end
    local window = window_of(node.parent)
    for i = #window, 1, -1 do
      if window[i].id == node.id then
        table.remove(window, i)
        break
      end
    end
    if node.shelf == nil then
      node.shelf = turn_of(node)
    end
    moved[node] = true
    node.parent.ready, node.turn = node.parent.ready - 1, false
  end

  -- The child whose turn it is.
  function first_ready(node)
    local window = window_of(node)
    if #window == 0 then
      flush_ready()
      flush('ready')
      read_window(node, window)
    end
    return below(node, window[#window].id)
  end

  function forget_windows()
    windows, moved = {}, {}
  end
end
