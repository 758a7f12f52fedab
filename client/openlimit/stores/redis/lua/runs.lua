-- What is done with many calls of one path at once. Their costs are columns, by unit.

local marks
local function marks_of_lots()
  marks = marks or {marking()}
  return unpack(marks)
end

-- The sizes of so many calls at each node of a path, see sizes.
local function sizes_of_all(path, columns, count)
  local found, longest = {}, {}
  for i = 1, count do
    longest[i] = call.shortest
  end
  for k, node in ipairs(path) do
    local longer = {unpack(longest)}
    for i, unit in ipairs(node.rules.units) do
      local column_, rate_ = columns[unit] or {}, node.rules.rate[i]
      for c, cost in ipairs(column_) do
        local size = cost / rate_
        longer[c] = size > longer[c] and size or longer[c]
      end
    end
    found[k], longest = longer, longer
  end
  return found
end

local function release(names_)
  local found = {0}
  read_leases(names_)
  for i, name in ipairs(names_) do
    over[name] = true
    if not free_slots(name, true) then
      found[1], found[#found + 1] = found[1] + 1, i - 1
    end
  end
  return found
end

local ask_at_once, settle
do
  -- The levels of a node once all costs are charged, if all may start right now.
  local function levels_with(node, columns, count)
    local at_, levels, rules, until_ = node.at, node.level, node.rules, -INF
    if node == root then
      at_, levels, rules, until_ = at, level, root_rules, paused
    end
    if at_ > now or until_ > now or node.running + count > rules.slots then
      return nil
    end
    local after = {}
    for i = 1, rules.n do
      local sum, most = 0, 0
      for _, cost in ipairs(columns[rules.units[i]] or {}) do
        sum, most = sum + cost, math.max(most, cost)
      end
      after[i] = math.max(0, levels[i] - (now - at_) * rules.rate[i]) + sum
      if after[i] > rules.capacity[i] or most > rules.amount[i] then
        return nil
      end
    end
    return after
  end

  local function pour_all(node, after)
    if node == root then
      end_queue()
      at, level, limited_by, changed = now, after, 0, true
    else
      node.at, node.level, node.by = now, after, ''
    end
  end

  local function take_turns(names_, path, columns, lease)
    local leaf, spans = path[#path], #path > 1 and sizes_of_all(path, columns, #names_)
    fill(path)
    for k = 2, #path do
      for i, size in ipairs(spans[k - 1]) do
        if i > 1 then
          lapse(path[k - 1])
        end
        take_turn(path[k], size)
      end
    end
    if lease > 0 and #path == 1 then
      take_slots(names_, path, {until_ = now + lease, start = now, sizes = {}})
    elseif lease > 0 then
      for i, name in ipairs(names_) do
        local sizes_ = {}
        for k = 1, #path - 1 do
          sizes_[k] = spans[k][i]
        end
        take_slots({name}, path, {until_ = now + lease, start = now, sizes = sizes_})
      end
    end
    for _ = 1, leaf.pace > 0 and #names_ or 0 do
      leaf.pace = leaf.pace - leaf.pace * call.latest_pace
    end
    leaf.started_at = now
  end

  local function all_levels(path, columns, count)
    local after = {}
    for k, node in ipairs(path) do
      after[k] = levels_with(node, columns, count)
      if not after[k] then
        return nil
      end
    end
    return after
  end

  local function is_known(names_)
    local are_remembered = read_granted(names_)
    read_leases(names_)
    for _, name in ipairs(names_) do
      if leases[name] or are_remembered and grant_of(name) then
        return true
      end
    end
    return false
  end

  function ask_at_once(names_, path_, which, columns, lease, lot, number, kept_)
    if root.waiting > 0 or is_known(names_) then
      return {NO}
    end
    local known, ids = known_on(path_, which)
    if #known < #which and known[#known].children >= call.children then
      return {NO}
    end
    local path = path_to(made_below(known, ids, which))
    for _, node in ipairs(path) do
      node.waiting = node.waiting + #names_  -- so that none of them is forgotten meanwhile
      catch_up(node)
    end
    sweep_line()
    local after = all_levels(path, columns, #names_)
    if after then
      for k, node in ipairs(path) do
        pour_all(node, after[k])
      end
      take_turns(names_, path, columns, lease)
    end
    for _, node in ipairs(path) do
      node.waiting = node.waiting - #names_
    end
    rest(path[#path])
    if not after then
      return {NO}
    end
    for k = 1, #path - 1 do
      lapse(path[k])
    end
    keep_run(names_, now + kept_, lot, number)
    return {YES}
  end

  local function settle_some(path, which, columns, actual, count)
    local changes_of = {}
    for unit, before in pairs(columns) do
      local after, changes_ = actual[unit], {}
      for k, i in ipairs(which) do
        changes_[k] = after[i] - before[i]
      end
      changes_of[unit] = changes_
    end
    for _, node in ipairs(path) do
      local changes = {}
      for i, unit in ipairs(node == root and units or node.rules.units) do
        changes[i] = changes_of[unit] or {}
      end
      correct(node, changes)
    end
    if #path > 1 then
      local before = sizes_of_all(path, columns, count)
      local after = sizes_of_all(path, actual, count)
      for k = 2, #path do
        learn(path[k], which, before[k - 1], after[k - 1])
      end
    end
    fill(path)
    corrected(path)
  end

  function settle(names_, path_, which, columns, lease, lot, numbers_, starts, actual)
    local found, names_of, places_, started_, begun = {0}, {}, {}, {}, {}
    local function fail(i, what)
      found[1], found[#found + 1], found[#found + 2] = found[1] + 1, i - 1, what
    end
    for i, number in ipairs(numbers_) do
      local start = starts and starts[i] or now
      if start > now then
        fail(i, NOT_STARTED)
      else
        places_[#places_ + 1], started_[#started_ + 1] = i, start
        begun[#begun + 1], names_of[#names_of + 1] = number, names_[i]
      end
    end
    if #places_ == 0 then
      return found
    end
    local mark, settled = marks_of_lots(), {}
    local others = starts and mark(call.lots .. lot, begun, started_, {}) or {}
    for k, i in ipairs(places_) do
      if others[k] then
        fail(i, others[k])
      else
        settled[#settled + 1] = i
      end
    end
    if #settled > 0 then
      settle_some(path_to(leaf_of(path_, which)), settled, columns, actual, #numbers_)
    end
    if lease > 0 then
      release(names_of)
    end
    return found
  end
end
