-- What is done with many calls of one path at once. Their costs are columns, by unit.

local marks
local function marks_of_lots()
  marks = marks or {marking()}
  return unpack(marks)
end

-- The sizes of so many calls, see sizes.
local function sizes_of_all(path, columns, count)
  local found, limiting = {}, {}
  for k, node in ipairs(path) do
    limiting[k] = {}
    for i = 1, node.rules.n do
      limiting[k][i] = {columns[node.rules.units[i]], node.rules.rate[i]}
    end
  end
  for i = 1, count do
    local longest, spans = call.shortest, {}
    for k, limits in ipairs(limiting) do
      for _, limit in ipairs(limits) do
        local size = (limit[1] and limit[1][i] or 0) / limit[2]
        longest = size > longest and size or longest
      end
      spans[k] = longest
    end
    found[i] = spans
  end
  return found
end

-- Late repeats of what held the slots of these calls take none again.
local function keep_over(names_)
  local over, until_, members = key_of('over'), now + call.over_kept, {}
  local gone_ = redis.call('ZRANGEBYSCORE', over, '-inf', now, 'LIMIT', 0, 2 * #names_)
  if redis.call('ZCARD', over) >= call.repeats then
    gone_ = redis.call('ZRANGE', over, 0, 2 * #names_ - 1)
  end
  send_all('ZREM', over, gone_)
  for _, name in ipairs(names_) do
    members[#members + 1], members[#members + 2] = exact(until_), name
  end
  send_all('ZADD', over, members)
  if own_clock then
    redis.call('PEXPIRE', over, milliseconds_until(until_))
  end
end

local function release(names_)
  local found = {0}
  keep_over(names_)
  read_leases(names_)
  for i, name in ipairs(names_) do
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

  local function lapse_above(path)
    for k = 1, #path - 1 do
      lapse(path[k])
    end
  end

  local function take_turns(names_, path, columns, lease)
    local leaf, spans_of = path[#path], #path > 1 and sizes_of_all(path, columns, #names_)
    fill(path)
    for i, name in ipairs(names_) do
      if i > 1 then
        lapse_above(path)
      end
      local spans = spans_of and spans_of[i] or {}
      for k = 2, #path do
        take_turn(path[k], spans[k - 1])
      end
      if lease > 0 then
        take_slots(name, path, {until_ = now + lease, start = now, sizes = spans})
      end
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
    read_granted(names_)
    read_leases(names_)
    for _, name in ipairs(names_) do
      if granted[name] and grant_of(name) or leases[name] then
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
    lapse_above(path)
    for i, name in ipairs(names_) do
      keep_grant(name, {until_ = now + kept_, start = now, unit = '', lot = lot,
                        number = number + i - 1, is_known = true})
    end
    return {YES}
  end

  local function settle_some(path, which, columns, actual, count)
    for _, node in ipairs(path) do
      local changes = {}
      for i, unit in ipairs(node == root and units or node.rules.units) do
        changes[i] = {}
        for k, place_ in ipairs(which) do
          local before, after = columns[unit], actual[unit]
          changes[i][k] = (after and after[place_] or 0) - (before and before[place_] or 0)
        end
      end
      correct(node, changes)
    end
    if #path > 1 then
      local before = sizes_of_all(path, columns, count)
      local after = sizes_of_all(path, actual, count)
      for _, i in ipairs(which) do
        for k = 2, #path do
          learn(path[k], before[i][k - 1], after[i][k - 1])
        end
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
    for i, start in ipairs(starts) do
      if start > now then
        fail(i, NOT_STARTED)
      else
        places_[#places_ + 1], started_[#started_ + 1] = i, start
        begun[#begun + 1], names_of[#names_of + 1] = numbers_[i], names_[i]
      end
    end
    if #places_ == 0 then
      return found
    end
    local mark, settled = marks_of_lots(), {}
    local others = mark(call.lots .. lot, begun, started_, {})
    for k, i in ipairs(places_) do
      if others[k] then
        fail(i, others[k])
      else
        settled[#settled + 1] = i
      end
    end
    if #settled > 0 then
      settle_some(path_to(leaf_of(path_, which)), settled, columns, actual, #names_)
    end
    if lease > 0 then
      release(names_of)
    end
    return found
  end
end
