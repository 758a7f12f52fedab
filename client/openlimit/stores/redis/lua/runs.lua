-- What is done with many calls of one path at once. Their costs are columns, by unit.

local marks
local function marks_of_lots()
  marks = marks or {marking()}
  return unpack(marks)
end

-- The sizes of so many calls at each node of a path but the last, see sizes. For these loops, numbers
-- are faster than ipairs.
local function sizes_of_all(path, columns, count)
  local found, longest = {}, {}
  for c = 1, count do
    longest[c] = call.shortest
  end
  for k = 1, #path - 1 do
    local rules = path[k].rules
    if rules.n > 0 then
      longest = {unpack(longest)}
    end
    for i = 1, rules.n do
      local column_, rate_ = columns[rules.units[i]], rules.rate[i]
      for c = 1, column_ and count or 0 do
        local size = column_[c] / rate_
        if size > longest[c] then
          longest[c] = size
        end
      end
    end
    found[k] = longest
  end
  return found
end

-- Runs are a list of stems of names, each followed by the endings of those that have it.
local function release(runs)
  local found, before, stems = {0}, 0, {}
  for i = 1, #runs, 2 do
    stems[#stems + 1] = runs[i]
  end
  read_leases(stems)
  read_remembered(stems)
  for i, stem in ipairs(stems) do
    local endings = runs[2 * i]
    keep_over(stem, endings)
    for _, place in ipairs(free_all(stem, endings)) do
      found[1], found[#found + 1] = found[1] + 1, before + place
    end
    before = before + #endings / 3
  end
  return found
end

local ask_at_once, settle
do
  -- Costs of so many calls, by unit.
  local function take_costs(units_, count)
    local columns = {}
    for _, unit in ipairs(units_) do
      columns[unit] = take_column(count)
    end
    return columns
  end

  -- By unit, all costs together, and the largest.
  local function sums_of(columns)
    local sums, largest = {}, {}
    for unit, column_ in pairs(columns) do
      local sum, most = 0, 0
      for c = 1, #column_ do
        local cost = column_[c]
        sum = sum + cost
        if cost > most then
          most = cost
        end
      end
      sums[unit], largest[unit] = sum, most
    end
    return sums, largest
  end

  -- The levels of a node once all costs are charged, if all may start right now.
  local function levels_with(node, sums, largest, count)
    local at_, levels, rules, until_ = node.at, node.level, node.rules, -INF
    if node == root then
      at_, levels, rules, until_ = at, level, root_rules, paused
    end
    if at_ > now or until_ > now or node.running + count > rules.slots then
      return nil
    end
    local after = {}
    for i = 1, rules.n do
      local unit = rules.units[i]
      after[i] = math.max(0, levels[i] - (now - at_) * rules.rate[i]) + (sums[unit] or 0)
      if after[i] > rules.capacity[i] or (largest[unit] or 0) > rules.amount[i] then
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

  local function take_turns(runs, path, columns, count, lease)
    local leaf, spans = path[#path], sizes_of_all(path, columns, count)
    fill(path)
    for k = 2, #path do
      local parent, sizes_ = path[k - 1], spans[k - 1]
      for i = 1, count do
        if i > 1 and parent.lapsing > 0 then
          lapse(parent)
        end
        take_turn(path[k], sizes_[i])
      end
    end
    if lease > 0 then
      take_all_slots(runs, path, spans, now + lease)
    end
    for _ = 1, leaf.pace > 0 and count or 0 do
      leaf.pace = leaf.pace - leaf.pace * call.latest_pace
    end
    leaf.started_at = now
  end

  local function all_levels(path, columns, count)
    local after, sums, largest = {}, sums_of(columns)
    for k, node in ipairs(path) do
      after[k] = levels_with(node, sums, largest, count)
      if not after[k] then
        return nil
      end
    end
    return after
  end

  -- Whether one of these calls has slots, or a start that can be repeated.
  local function is_any_known(runs)
    local stems = {}
    for i = 1, #runs, 2 do
      stems[#stems + 1] = runs[i]
    end
    read_remembered(stems)
    read_leases(stems)
    local names_ = {}
    for i, stem in ipairs(stems) do
      if meta.granted_until > now or leases[stem] or #remembered[stem].grants > 0 then
        local endings = runs[2 * i]
        for from = 1, #endings, 3 do
          names_[#names_ + 1] = whole_name(stem, string.sub(endings, from, from + 2))
        end
      end
    end
    read_granted(names_)
    for _, name in ipairs(names_) do
      if lease_of(name) or grant_of(name) then
        return true
      end
    end
    return false
  end

  -- Whether all of these start now.
  local function start_all(runs, path_, which, columns, count, lease, server, lot, number, kept_)
    if root.waiting > 0 or is_any_known(runs) then
      return false
    end
    local known, ids = known_on(path_, which)
    if #known < #which and known[#known].children >= call.children then
      return false
    end
    local path = path_to(made_below(known, ids, which))
    for _, node in ipairs(path) do
      node.waiting = node.waiting + count  -- so that none of them is forgotten meanwhile
      catch_up(node)
    end
    sweep_line()
    local after = all_levels(path, columns, count)
    if after then
      for k, node in ipairs(path) do
        pour_all(node, after[k])
      end
      take_turns(runs, path, columns, count, lease)
    end
    for _, node in ipairs(path) do
      node.waiting = node.waiting - count
    end
    rest(path[#path])
    if not after then
      return false
    end
    for k = 1, #path - 1 do
      lapse(path[k])
    end
    for i = 1, #runs, 2 do
      keep_run(runs[i], runs[i + 1], now + kept_, lot, number, server)
      number = number + #runs[i + 1] / 3
    end
    return true
  end

  -- The names in runs; what is known of these is read.
  local function names_in(runs)
    local names_, missing = {}, {}
    for i = 1, #runs, 2 do
      for from = 1, #runs[i + 1], 3 do
        local name = whole_name(runs[i], string.sub(runs[i + 1], from, from + 2))
        names_[#names_ + 1] = name
        if waiting[name] == nil then
          missing[#missing + 1] = name
        end
      end
    end
    read_calls(missing)
    read_granted(names_)
    return names_
  end

  function ask_at_once(runs, path_, which, units_, count, lease, server, max_wait, lot, number, kept_)
    local columns = take_costs(units_, count)
    if start_all(runs, path_, which, columns, count, lease, server, lot, number, kept_) then
      return {YES}
    end
    local found = {NO}
    for i, name in ipairs(names_in(runs)) do
      local costs = {}
      for unit, column_ in pairs(columns) do
        costs[unit] = column_[i]
      end
      for _, each in ipairs(ask(name, path_, which, costs, lease, server, max_wait, lot, number + i - 1,
                                false, kept_)) do
        found[#found + 1] = each
      end
    end
    return found
  end

  local function settle_some(path, which, columns, actual, count)
    local changes_of = {}
    for unit, before in pairs(columns) do
      local after, changes_ = actual[unit], {}
      for k = 1, #which do
        local i = which[k]
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
    if path[#path].started_at == -INF then  -- with no starts, which let others lapse, they would stay
      for k = 1, #path - 1 do
        lapse(path[k])
      end
    end
  end

  -- Those at these places, which are in order, of the calls of runs.
  local function runs_at(runs, places_)
    local some, next_, before = {}, 1, 0
    for i = 1, #runs, 2 do
      local endings, count = {}, #runs[i + 1] / 3
      while places_[next_] and places_[next_] <= before + count do
        local from = 3 * (places_[next_] - before) - 2
        endings[#endings + 1], next_ = string.sub(runs[i + 1], from, from + 2), next_ + 1
      end
      some[#some + 1], some[#some + 2] = runs[i], table.concat(endings)
      before = before + count
    end
    return some
  end

  function settle(runs, path_, which, units_, count, lease, lot)
    local numbers_, starts = take_column(count), take_column(count)
    local columns, actual = take_costs(units_, count), take_costs(units_, count)
    local found, places_, started_, begun = {0}, {}, {}, {}
    local function fail(i, what)
      found[1], found[#found + 1], found[#found + 2] = found[1] + 1, i - 1, what
    end
    local many = 0
    for i = 1, count do
      local start = starts[i]
      if start > now then
        fail(i, NOT_STARTED)
      else
        many = many + 1
        places_[many], started_[many], begun[many] = i, start, numbers_[i]
      end
    end
    if many == 0 then
      return found
    end
    local mark, settled = marks_of_lots(), {}
    local others = lot and mark(call.lots .. lot, begun, started_, {}) or {}
    for k = 1, many do
      if others[k] then
        fail(places_[k], others[k])
      else
        settled[#settled + 1] = places_[k]
      end
    end
    if #settled > 0 then
      settle_some(path_to(leaf_with_room(path_, which)), settled, columns, actual, count)
    end
    if lease > 0 then
      release(many == count and runs or runs_at(runs, places_))
    end
    return found
  end
end
