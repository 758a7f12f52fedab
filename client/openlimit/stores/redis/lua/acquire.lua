-- Acquires. Costs are in the column: those of a limit follow those of the limit before it.

-- Whether all of so many costs for each limit may start right now, and then they do.
local function acquire_at_once(from, count)
  if at > now or paused > now or count == 0 then
    return false
  end
  local poured = leaked(level, now - at)
  for i = 1, n do
    local sum, most = 0, 0
    for k = from + (i - 1) * count + 1, from + i * count do
      local cost = column[k]
      sum = sum + cost
      if cost > most then
        most = cost
      end
    end
    poured[i] = poured[i] + sum
    if poured[i] > capacity[i] or most > amount[i] then
      return false
    end
  end
  end_queue()
  at, level, limited_by, changed = now, poured, 0, true
  return true
end

-- Acquires one, whose costs are at this place of the column, and each so much after the one before.
local function acquire_one(lot, number, max_wait, from, step)
  local base, by = now, 0
  if at > now then
    base, by = at, limited_by
  end
  if paused > base then
    base, by = paused, 0
  end
  local start, elapsed, poured = base, base - at, {}
  for i = 1, n do
    local cost = column[from + (i - 1) * step]
    if cost > amount[i] then
      return EXCEEDS_LIMIT, 0, i
    end
    local left = math.max(0, level[i] - elapsed * rate[i])
    poured[i] = left + cost
    if left + cost > capacity[i] and cost > 0 then
      local excess = left + math.min(cost, capacity[i]) - capacity[i]
      local earliest = base + math.ceil(excess / rate[i] - SLACK)
      if earliest > start then
        start, by = earliest, i
      end
    end
  end
  local wait = start - now
  if max_wait >= 0 and wait > max_wait then
    return WAIT_TOO_LONG, wait, by
  end
  if wait == 0 then
    end_queue()
  else
    sweep()
    seq = seq + 1
    if lot == '' then
      if first == seq then
        first = seq + 1  -- nothing is kept of those without a name
      end
    else
      if first == seq then
        started = false
      end
      local costs = {}
      for i = 1, n do
        costs[i] = column[from + (i - 1) * step]
      end
      keep(seq, {name = name_of(lot, number), start = start, costs = costs, at = at, level = level,
                 limited_by = limited_by, credit = false, given_back = false, change = false,
                 floor = false})
    end
  end
  if start > base then
    for i = 1, n do
      local left = math.max(0, level[i] - (start - at) * rate[i])
      poured[i] = left + column[from + (i - 1) * step]
    end
  end
  at, level, limited_by, changed = start, poured, by, true
  return YES, wait, by
end

local function answer_all(what, wait, by)
  answers[answered + 1], answers[answered + 2], answers[answered + 3] = what, wait, by
  answered = answered + 3
end

-- Acquires so many, numbered from the first.
local function acquire(lot, number, count, max_wait)
  local from = taken
  taken = taken + n * count
  if count == 1 then
    local what, wait, by = acquire_one(lot, number, max_wait, from + 1, 1)
    if what == YES and wait == 0 then
      return answer(YES)
    end
    answer(NO)
    return answer_all(what, wait, by)
  elseif acquire_at_once(from, count) then
    return answer(YES)
  end
  answer(NO)
  for k = 1, count do
    answer_all(acquire_one(lot, number + k - 1, max_wait, from + k, count))
  end
end
