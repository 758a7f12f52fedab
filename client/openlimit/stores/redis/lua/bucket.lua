-- Decides for one bucket: the arithmetic of leaky_bucket.py, any number of questions a call.
--
-- KEYS[1]  the bucket, a hash:
--            at            the latest start handed out
--            paused        until when nothing new starts
--            level:<name>  how full the bucket of each limit is then, in units
--            limited_by    the unit that set that start; empty for none
--            units         the limits' names, in their order
--            seq, first    the numbers of the latest and of the oldest reservation that is kept
--            started       when and how full the bucket was with what had started and is not kept
--            void          the number before which none can be cancelled any more
--            p:<number>    such a reservation: a start to come, and the bucket as it was before
--            n:<name>      the number of the reservation of that name
--            seen, shift   the time of the latest decision, and by how much the clock was behind
-- KEYS[2…] lots, which are what is remembered of reservations that were settled or cancelled: two
--          bits for each number, whether it is closed and whether it was cancelled; and of requests,
--          until when, and in batches what was granted to their places, see recall_run
-- ARGV[1]  JSON:
--            clock         microseconds, for tests; null for Redis's own, by which keys expire
--            limits        [name, unit, amount, capacity, rate, most] each
--            requests      [key, kept] each: which of the KEYS remembers it, for how long from now;
--                          if that is negative, for so long from the start
--            questions     [name, max_wait, costs] reserves, without a bound if max_wait is
--                          negative; [names, max_wait, costs, request, places] for as many of a
--                          run, with which of those requests
--                          [1, name, lot, number, start] cancels, [2, name, lot, number, start,
--                          change] settles; lot is which of the KEYS remembers that, or 0
--                          [3, length] pauses, 0 to go on; [4, levels] observes
--            lots          how the keys of this bucket's lots begin
--            settled_within, marked   microseconds from the start, as in __init__.py
--            secret        instead of all others: KEYS[1] is it from now on, unless there is one
-- Returns  for each question three integers: what became of it (see below); the wait in
--          microseconds; which limit set that or was exceeded, counted from 1, 0 for none.
--          Then the time, and for each that was granted before "start unit costs name", where no
--          unit is "-".
--
-- Times are whole microseconds, which doubles hold exactly for some 280 years. Levels are written
-- with 17 digits, from which a double is read back as it was. Every step is one of leaky_bucket.py,
-- in the same order: a test compares all decisions of the two.

local NO, YES, EXCEEDS_LIMIT, WAIT_TOO_LONG, REPEAT, NOT_STARTED = 0, 1, 2, 3, 4, 5
local CANCELLED, TOO_LATE = 6, 7
local CANCEL, SETTLE, PAUSE = 1, 2, 3
local SLACK = 1e-3
local MOST_ARGUMENTS = 4000  -- of one command: Lua's stack is bounded
local MOST_SWEPT = 2000

local key, call = KEYS[1], cjson.decode(ARGV[1])

if call.secret then
  redis.call('SET', key, call.secret, 'NX')
  return {redis.call('GET', key)}
end

local function exact(number)
  return string.format('%.17g', number)
end

local own_clock = call.clock == cjson.null
local clock = call.clock
if own_clock then
  local time = redis.call('TIME')
  clock = time[1] * 1000000 + time[2]
end

local n = #call.limits
local names, units, amount, capacity, rate, highest, level = {}, {}, {}, {}, {}, {}, {}
local of_name, of_unit = {}, {}
local fields = {'at', 'limited_by', 'units', 'seq', 'first', 'seen', 'shift', 'void',
                'started', 'paused'}
for i, limit in ipairs(call.limits) do
  names[i], units[i], amount[i], capacity[i], rate[i], highest[i] = unpack(limit)
  of_name[names[i]], of_unit[units[i]] = i, i
  fields[#fields + 1] = 'level:' .. names[i]
end
local limited = table.concat(names, ' ')

local state = redis.call('HMGET', key, unpack(fields))
local at = tonumber(state[1]) or -math.huge
local limited_by = of_unit[state[2]] or 0
local seq, first = tonumber(state[4]) or 0, tonumber(state[5]) or 1
for i = 1, n do
  level[i] = math.min(highest[i], tonumber(state[10 + i]) or 0)
end

-- A clock that was set back, or a replica's that is behind, must not make a queue wait longer:
-- each bucket's own time goes on from where it was.
local seen, shift = tonumber(state[6]) or -math.huge, tonumber(state[7]) or 0
if clock + shift < seen then
  shift = seen - clock
end
local now = clock + shift

local void = tonumber(state[8]) or 0
local started = state[9] and cmsgpack.unpack(state[9])
local paused = tonumber(state[10]) or -math.huge
local changed, swept = false, false

-- Reservations that wait are read when needed, and written once, at the end.
local records, numbers = {}, {}  -- by number, and numbers by name; false once forgotten
local kept, deleted = {}, {}

local function recall(number)
  if records[number] == nil then
    local packed = redis.call('HGET', key, 'p:' .. number)
    local record = false
    if packed then
      record = {}
      record.name, record.start, record.costs, record.at, record.level, record.limited_by,
        record.credit, record.given_back, record.change, record.floor
        = cmsgpack.unpack(packed)
    end
    records[number] = record
  end
  return records[number]
end

local function keep(number, record)
  records[number], numbers[record.name], kept[number] = record, number, true
end

local function forget(number)
  local name = records[number].name
  deleted[#deleted + 1], deleted[#deleted + 2] = 'p:' .. number, 'n:' .. name
  records[number], numbers[name], kept[number] = false, false, nil
end

-- Lets time pass for what has started, and a call start.
local function start_by(time, costs)
  local levels = {}
  for i = 1, n do
    levels[i] = math.max(0, started.level[i] - (time - started.at) * rate[i])
    levels[i] = levels[i] + (costs and costs[i] or 0)
  end
  started = {at = time, level = levels}
end

-- Drops the oldest that are kept and have started or are void; some now, more in later calls, so
-- that no call takes long.
local function sweep()
  local most = MOST_SWEPT
  while not swept and first <= seq do
    local record = recall(first)
    if most == 0 or record and record.start > now and first >= void then
      break
    elseif record then
      if started and first >= void and not record.given_back then
        start_by(record.start, record.costs)
      end
      forget(first)
    end
    first, most = first + 1, most - 1
  end
  swept = true
end

-- Other limits than last time: a level keeps its name, what is pending cannot be undone any more.
if state[3] and state[3] ~= limited then
  seq, changed = seq + 1, true
  void, started = seq, false
  for name in string.gmatch(state[3], '%S+') do
    if not of_name[name] then
      deleted[#deleted + 1] = 'level:' .. name
    end
  end
end

local function reserve(name, max_wait, costs)
  local base, by = now, 0
  if at > now then
    base, by = at, limited_by
  end
  if paused > base then
    base, by = paused, 0
  end
  local start, leaked, poured = base, base - at, {}
  for i = 1, n do
    local cost = costs[i]
    if cost > amount[i] then
      return EXCEEDS_LIMIT, 0, i
    end
    local left = math.max(0, level[i] - leaked * rate[i])
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
  sweep()
  if wait == 0 then
    started = false
    if first <= seq and recall(seq) then
      seq = seq + 1  -- whatever is kept has started: cancelling goes back no further
    end
  else
    seq = seq + 1
    if name ~= '' then
      if first == seq then
        started = false
      end
      keep(seq, {name = name, start = start, costs = costs, at = at, level = level,
                 limited_by = limited_by, credit = false, given_back = false, change = false,
                 floor = false})
    end
  end
  if start > base then
    for i = 1, n do
      poured[i] = math.max(0, level[i] - (start - at) * rate[i]) + costs[i]
    end
  end
  at, level, limited_by, changed = start, poured, by, true
  return YES, wait, by
end

local answers, repeats, runs = {}, {}, {}
local lots = {}  -- until when what was marked in them is to be remembered, by key

local function answer(what, wait, by)
  local n_ = #answers
  answers[n_ + 1], answers[n_ + 2], answers[n_ + 3] = what, wait, by
end

local function milliseconds_until(time)
  return string.format('%.0f', math.max(1, math.ceil((time - now) / 1000)))
end

-- What was granted to one request, whose places may have been asked in several calls: in batches of
-- {now, places, waits, units, names, costs}, of which all but the first are lists; where nothing
-- had to wait, waits and units are false.
local function recall_run(request)
  local which, kept = unpack(call.requests[request])
  local run = {which = which, kept = kept, until_ = 0, batches = {}, batch_of = {}, index_of = {}}
  local packed = redis.call('GET', KEYS[which])
  local until_, batches
  if packed then
    until_, batches = cmsgpack.unpack(packed)
  end
  if until_ and until_ > now then
    run.until_, run.batches = until_, batches
    for _, batch in ipairs(batches) do
      for i, place in ipairs(batch[2]) do
        run.batch_of[place], run.index_of[place] = batch, i
      end
    end
  end
  runs[request] = run
  return run
end

local function repeated(batch, i)
  local at_, _, waits, limited_bys, names_, costs_ = unpack(batch)
  -- This key cannot be told beforehand: only what is remembered says in which lot it was granted.
  -- So it may be missing on a node of a cluster that its slot is leaving, which is an error.
  local lot, number = string.match(names_[i], '^(.+)%-(%d+)$')
  if redis.pcall('GETBIT', call.lots .. (lot or names_[i]), 2 * (number or 0) + 1) == 1 then
    return CANCELLED, 0, 0
  end
  local start, charged = at_ + (waits and waits[i] or 0), {}
  for j, cost in ipairs(costs_[i]) do
    charged[j] = exact(cost)
  end
  repeats[#repeats + 1] = table.concat({exact(start), limited_bys and limited_bys[i] or '-',
                                        table.concat(charged, ','), names_[i]}, ' ')
  return REPEAT, math.max(0, start - now), 0
end

-- Those of a batch that were granted.
local function granted_of(places, waits, limited_bys, names_, costs_)
  local granted = {{}, {}, {}, {}, {}}
  for i = 1, #names_ do
    if waits[i] then
      local j = #granted[1] + 1
      granted[1][j], granted[2][j], granted[3][j] = places[i], waits[i], limited_bys[i]
      granted[4][j], granted[5][j] = names_[i], costs_[i]
    end
  end
  return unpack(granted)
end

-- Reserves for some places of a run, as far as that was not granted before.
local function reserve_run(names_, max_wait, costs_, request, places)
  local run = runs[request] or recall_run(request)
  local batch_of, index_of = run.batch_of, run.index_of
  local waits, limited_bys, longest, all_granted = {}, {}, -1, true
  local batch = {now, places, waits, limited_bys, names_, costs_}
  for i, name in ipairs(names_) do
    local what, wait, by
    local place = places[i]
    if batch_of[place] then
      what, wait, by = repeated(batch_of[place], index_of[place])
    else
      what, wait, by = reserve(name, max_wait, costs_[i])
    end
    if what == YES then
      batch_of[place], index_of[place] = batch, i
      waits[i], limited_bys[i], longest = wait, units[by] or '-', wait  -- they start in order
    else
      all_granted = false
    end
    answer(what, wait, by)
  end
  if longest >= 0 then
    if not all_granted then
      places, waits, limited_bys, names_, costs_
        = granted_of(places, waits, limited_bys, names_, costs_)
    end
    run.batches[#run.batches + 1] = {now, places, longest > 0 and waits,
                                     longest > 0 and limited_bys, names_, costs_}
    local kept = run.kept < 0 and longest - run.kept or run.kept
    run.until_, run.fresh = math.max(run.until_, now + kept), true
  end
end

-- All but plain reserving; made when it is asked for, since making so many functions takes as long
-- as a few decisions.
local function corrections()
  local function leaked_until(time)
    local left = {}
    for i = 1, n do
      left[i] = math.max(0, level[i] - (time - at) * rate[i])
    end
    return left
  end

  local function leak_until(time)
    if time > at then
      level, at, limited_by, changed = leaked_until(time), time, 0, true
    end
  end

  local function less(levels, amounts)
    local left = {}
    for i = 1, n do
      left[i] = math.max(0, levels[i] - amounts[i])
    end
    return left
  end

  local function sum(some, others)
    local both = {}
    for i = 1, n do
      both[i] = (some and some[i] or 0) + others[i]
    end
    return both
  end

  local function most(some, others)
    local higher = {}
    for i = 1, n do
      higher[i] = math.max(some and some[i] or 0, others and others[i] or 0)
    end
    return higher
  end

  local function least(some, others)
    local lower = {}
    for i = 1, n do
      lower[i] = math.min(some[i], others[i])
    end
    return lower
  end

  -- Goes back to before the latest reservations as far as they are cancelled. The credit was given
  -- back meanwhile, and must not be charged again on the way; nor may what was settled and observed
  -- meanwhile be lost.
  local function pop_cancelled(credit)
    local change, floor = {}, {}
    for i = 1, n do
      change[i], floor[i] = 0, 0
    end
    local last = recall(seq)
    while last do
      credit = sum(last.credit, credit)
      floor = most(sum(last.floor, change), floor)
      change = sum(last.change, change)
      if not last.given_back then
        last.credit, last.change, last.floor = credit, change, floor
        return keep(seq, last)
      end
      credit = less(credit, last.given_back)
      at, level, limited_by = last.at, last.level, last.limited_by
      leak_until(now)
      level = least(highest, most(sum(less(level, credit), change), floor))
      forget(seq)
      seq = seq - 1
      last = recall(seq)
    end
  end

  -- What can be cancelled, of which the latest start is still to come.
  local function last_pending()
    return at > now and recall(seq)
  end

  -- What has started, brought up to now, while anybody waits.
  local function told()
    if at <= now or first > seq then
      return false
    end
    local oldest = first
    while not started and oldest <= seq do
      local record = oldest >= void and recall(oldest)
      started = record and {at = record.at, level = record.level}
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

  -- Changes the levels, those of what has started, and what cancelling goes back to.
  local function correct(change, queue)
    level, changed = least(highest, most(sum(level, change))), true
    if queue then
      started.level = least(highest, most(sum(started.level, change)))
    end
    local last = last_pending()
    if last then
      last.change = sum(last.change, change)
      last.floor = least(highest, most(sum(last.floor, change)))
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

  local function mark(lot, number, start, is_cancelled)
    if lot > 0 then
      redis.call('SETBIT', KEYS[lot], 2 * number, 1)
      if is_cancelled then
        redis.call('SETBIT', KEYS[lot], 2 * number + 1, 1)
      end
      lots[KEYS[lot]] = math.max(lots[KEYS[lot]] or 0, start + call.marked)
    end
  end

  local function is_too_late(lot, start)
    return lot > 0 and now >= start + call.settled_within
  end

  local function cancel(name, lot, number_in_lot, start)
    if is_too_late(lot, start) then
      return TOO_LATE
    end
    local record, number = pending(name)
    if not record then
      return NO
    end
    local since, given_back = at - record.start, {}
    for i = 1, n do
      given_back[i] = math.min(level[i], math.max(0, record.costs[i] - rate[i] * since))
    end
    level, record.given_back, changed = less(level, given_back), given_back, true
    keep(number, record)
    pop_cancelled(given_back)
    mark(lot, number_in_lot, start, true)
    return YES
  end

  local function settle(name, lot, number, start, change)
    if is_too_late(lot, start) then
      return TOO_LATE
    elseif lot > 0 and redis.call('GETBIT', KEYS[lot], 2 * number) == 1 then
      return NO
    elseif at > now and pending(name) then
      return NOT_STARTED
    end
    local queue = told()
    leak_until(now)
    correct(change, queue)
    mark(lot, number, start, false)
    return YES
  end

  local function pause(length)
    paused, changed = length > 0 and math.max(paused, now + length) or -math.huge, true
    return YES
  end

  local function any(levels)
    for i = 1, n do
      if levels[i] > 0 then
        return true
      end
    end
    return false
  end

  local function observe(wanted)
    if not any(wanted) then
      return YES
    end
    local queue = told()
    local levels, raised = queue and started.level or leaked_until(now), {}
    for i = 1, n do
      raised[i] = math.max(0, wanted[i] - levels[i])
    end
    if any(raised) then
      leak_until(now)
      correct(raised, queue)
    end
    return YES
  end

  local function tell(what, ...)
    if what == CANCEL then
      return cancel(...)
    elseif what == SETTLE then
      return settle(...)
    elseif what == PAUSE then
      return pause(...)
    end
    return observe(...)
  end

  return tell
end

local tell
for _, question in ipairs(call.questions) do
  local first = type(question[1])
  if first == 'number' then
    tell = tell or corrections()
    answer(tell(unpack(question)), 0, 0)
  elseif first == 'table' then
    reserve_run(unpack(question))
  else
    answer(reserve(unpack(question)))
  end
end
answers[#answers + 1] = now
for _, before in ipairs(repeats) do
  answers[#answers + 1] = before
end

-- By a clock of tests, keys do not expire: what is read of them is judged by the time.
for _, run in pairs(runs) do
  if run.fresh then
    local value, key_ = cmsgpack.pack(run.until_, run.batches), KEYS[run.which]
    if own_clock then
      redis.call('SET', key_, value, 'PX', milliseconds_until(run.until_))
    else
      redis.call('SET', key_, value)
    end
  end
end
for lot, until_ in pairs(lots) do
  local lifetime = milliseconds_until(until_)
  if own_clock and redis.call('PTTL', lot) < tonumber(lifetime) then
    redis.call('PEXPIRE', lot, lifetime)
  end
end

local function send(command, arguments)
  for from = 1, #arguments, MOST_ARGUMENTS do
    local to = math.min(from + MOST_ARGUMENTS - 1, #arguments)
    redis.call(command, key, unpack(arguments, from, to))
  end
end

if changed then
  local fresh = {'at', exact(at), 'limited_by', units[limited_by] or '', 'units', limited,
                 'seq', seq, 'first', first, 'seen', exact(now), 'shift', exact(shift),
                 'void', void, 'started', cmsgpack.pack(started), 'paused', exact(paused)}
  local idle_at = math.max(at, paused)
  for i = 1, n do
    fresh[#fresh + 1], fresh[#fresh + 2] = 'level:' .. names[i], exact(level[i])
    idle_at = math.max(idle_at, at + level[i] / rate[i])
  end
  for number in pairs(kept) do
    local r = records[number]
    local packed = cmsgpack.pack(r.name, r.start, r.costs, r.at, r.level, r.limited_by,
                                 r.credit, r.given_back, r.change, r.floor)
    fresh[#fresh + 1], fresh[#fresh + 2] = 'p:' .. number, packed
    fresh[#fresh + 1], fresh[#fresh + 2] = 'n:' .. r.name, number
  end
  send('HDEL', deleted)
  send('HSET', fresh)
  if own_clock then
    -- From then on the bucket decides as a new one would.
    -- (2 ms later, since Redis counts whole ones from before the script began.)
    local idle_in = math.max(1, math.ceil((idle_at - now) / 1000) + 2)
    redis.call('PEXPIRE', key, string.format('%.0f', idle_in))
  end
end
return answers
