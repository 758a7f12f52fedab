-- Corrects what was acquired. These functions are made when they are first needed, since making so
-- many takes as long as a few decisions.

local function corrections()
  local by_limit, less, sum, change_all, totals, any = level_arithmetic()
  local mark, mark_cancelled = marking()

  local function leak_until(time)
    if time > at then
      level, at, limited_by, changed = leaked(level, time - at), time, 0, true
    end
  end

  -- Goes back to before the latest reservations as far as they are cancelled. The credit was given
  -- back meanwhile, and must not be charged again on the way; nor may what was settled and observed
  -- meanwhile be lost.
  local function undo(credit)
    local change, floor, last = nothing, nothing, recall(seq)
    while last do
      credit = sum(last.credit, credit)
      floor = by_limit(math.max, sum(last.floor, change), floor)
      change = sum(last.change, change)
      if not last.given_back then
        last.credit, last.change, last.floor = credit, change, floor
        return keep(seq, last)
      end
      credit = less(credit, last.given_back)
      at, level, limited_by = last.at, last.level, last.limited_by
      leak_until(now)
      level = by_limit(math.max, sum(less(level, credit), change), floor)
      if started and started.observed then
        local observed = leaked(started.observed, math.max(at, now) - started.at)
        level = by_limit(math.max, level, observed)
      end
      level = by_limit(math.min, highest, level)
      forget(seq)
      seq = seq - 1
      last = recall(seq)
    end
  end

  -- Whether anybody waits; then what has started is brought up to now.
  local function follow()
    if at <= now or first > seq then
      return false
    end
    local oldest = first
    while not started and oldest <= seq do
      local record = oldest >= void and recall(oldest)
      started = record and {at = record.at, level = record.level, observed = false}
      oldest, changed = oldest + 1, true
    end
    if not started then
      return false
    end
    sweep()
    if first > seq then
      return false  -- those that still wait have no names
    end
    start_by(now)
    return true
  end

  -- Changes the levels, by columns; those of what has started, and what cancelling goes back to.
  local function correct(changes, queue)
    leak_until(now)
    level, changed = change_all(level, changes), true
    if queue then
      started.level = change_all(started.level, changes)
      started.observed = started.observed and change_all(started.observed, changes)
    end
    local last = at > now and recall(seq)
    if last then
      last.change = sum(last.change, totals(changes))
      last.floor = change_all(last.floor or nothing, changes)
      keep(seq, last)
    end
  end

  local function pending(name)
    local number = numbers[name]
    if number == nil then
      number = tonumber(redis.call('HGET', key, 'n:' .. name))
    end
    local record = number and recall(number)
    if not record or number < void or record.given_back or record.start <= now then
      return nil
    end
    return record, number
  end

  -- NOT_STARTED, by position, for those of these numbers of a lot that still wait.
  local function waiting_of(lot, which)
    local waiting, names_, wanted = {}, {}, {}
    for k, number in ipairs(which) do
      names_[k] = name_of(lot, number)
      wanted[k] = 'n:' .. names_[k]
    end
    for from = 1, #wanted, MOST_ARGUMENTS do
      local to = math.min(from + MOST_ARGUMENTS - 1, #wanted)
      for i, number in ipairs(redis.call('HMGET', key, unpack(wanted, from, to))) do
        local name = names_[from + i - 1]
        if numbers[name] == nil then
          numbers[name] = tonumber(number) or false
        end
      end
    end
    for k, name in ipairs(names_) do
      waiting[k] = pending(name) and NOT_STARTED
    end
    return waiting
  end

  -- The next so many numbers of the column, but for those that stay out.
  local function take(count, others)
    local numbers_, left = {}, 0
    for k = 1, count do
      if not others or not others[k] then
        left = left + 1
        numbers_[left] = column[taken + k]
      end
    end
    taken = taken + count
    return numbers_
  end

  local function settle(which, lot, count)
    local numbers_, starts = take(count), which and take(count)
    local waiting = at > now and waiting_of(lot, numbers_) or {}
    local others, unsettled, changes = waiting, {}, {}
    if which and count > 0 then
      others = mark(KEYS[which], numbers_, starts, waiting)
    end
    for k in pairs(others) do
      unsettled[#unsettled + 1] = k
    end
    answer(#unsettled)
    for _, k in ipairs(unsettled) do
      answer(k - 1)
      answer(others[k])
    end
    for i = 1, n do
      changes[i] = take(count, others)
    end
    if #unsettled < count then
      correct(changes, follow())
    end
  end

  local function cancel(which, lot, number, start)
    if which and now >= start + call.settled_within then
      return answer(TOO_LATE)
    end
    local record, number_ = pending(name_of(lot, number))
    if not record then
      return answer(NO)
    end
    local since, given_back = at - record.start, {}
    for i = 1, n do
      given_back[i] = math.min(level[i], math.max(0, record.costs[i] - rate[i] * since))
    end
    level, record.given_back, changed = less(level, given_back), given_back, true
    keep(number_, record)
    undo(given_back)
    if which then
      mark_cancelled(KEYS[which], number, start)
    end
    answer(YES)
  end

  local function penalize(length)
    paused, changed = length > 0 and math.max(paused, now + length) or -math.huge, true
  end

  local function observe(wanted)
    if not any(wanted) then
      return
    end
    local queue = follow()
    local levels, raised, changes = queue and started.level or leaked(level, now - at), {}, {}
    for i = 1, n do
      raised[i] = math.max(0, wanted[i] - levels[i])
      changes[i] = {raised[i]}
    end
    if any(raised) then
      correct(changes, queue)
    end
    -- Cancelling leaves at least that, even if there was no need to raise any level.
    if queue then
      started.observed, changed = by_limit(math.max, started.observed, wanted), true
    end
  end

  local function correct_all(changes)
    correct(changes, follow())
  end

  return {settle = settle, cancel = cancel, penalize = penalize, observe = observe,
          correct = correct_all}
end
