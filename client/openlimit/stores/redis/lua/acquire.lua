-- Acquires, and remembers what was granted to requests.

-- Everything that was kept has started: cancelling goes back no further.
local function end_queue()
  sweep()
  started = false
  if first <= seq and recall(seq) then
    seq = seq + 1
  end
end

-- Whether all of a column may start right now, and then they do.
local function acquire_at_once(costs)
  if at > now or paused > now then
    return false
  end
  local poured = leaked(level, now - at)
  for i = 1, n do
    local sum, most = 0, 0
    for _, cost in ipairs(costs[i]) do
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

local function name_of(lot, number)
  return lot .. '-' .. number
end

-- Acquires the costs that are the k-th of their columns.
local function acquire_one(lot, number, max_wait, costs, k)
  local base, by = now, 0
  if at > now then
    base, by = at, limited_by
  end
  if paused > base then
    base, by = paused, 0
  end
  local start, elapsed, poured = base, base - at, {}
  for i = 1, n do
    local cost = costs[i][k]
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
    if lot ~= '' then
      if first == seq then
        started = false
      end
      local own = {}
      for i = 1, n do
        own[i] = costs[i][k]
      end
      keep(seq, {name = name_of(lot, number), start = start, costs = own, at = at, level = level,
                 limited_by = limited_by, credit = false, given_back = false, change = false,
                 floor = false})
    end
  end
  if start > base then
    poured = leaked(level, start - at)
    for i = 1, n do
      poured[i] = poured[i] + costs[i][k]
    end
  end
  at, level, limited_by, changed = start, poured, by, true
  return YES, wait, by
end

local runs = {}  -- by request

-- What was granted to one request, whose places may have been asked in several calls: in batches of
-- {now, count, places, waits, units, lot, number, costs}. places is the first of them, if they
-- follow one another, or a list. waits and units are lists, with -1 for what was not granted; or
-- false, where all started at once. number is that of the first in the lot, which the others
-- follow; costs is the columns as they came.
local function recall_run(request)
  local which, kept_ = unpack(call.requests[request])
  local run = {which = which, kept = kept_, until_ = 0, batches = {}, indexed = 0,
               batch_of = {}, index_of = {}}
  local packed = redis.call('GET', KEYS[which])
  local until_, batches
  if packed then
    until_, batches = cmsgpack.unpack(packed)
  end
  if until_ and until_ > now then
    run.until_, run.batches = until_, batches
  end
  runs[request] = run
  return run
end

local function place_of(places, i)
  return type(places) == 'table' and places[i] or places + i - 1
end

-- The batch in which that place was granted, and where it is in there.
local function granted(run, place)
  while run.indexed < #run.batches do
    run.indexed = run.indexed + 1
    local batch = run.batches[run.indexed]
    local _, count, places, waits = unpack(batch)
    for i = 1, count do
      if not waits or waits[i] >= 0 then
        local each = place_of(places, i)
        run.batch_of[each], run.index_of[each] = batch, i
      end
    end
  end
  return run.batch_of[place], run.index_of[place]
end

-- Whether none of these places was granted before, and none is there twice.
local function are_new(run, places, count)
  if #run.batches == 0 and type(places) == 'number' then
    return true
  end
  local here = {}
  for i = 1, count do
    local place = place_of(places, i)
    if here[place] or granted(run, place) then
      return false
    end
    here[place] = true
  end
  return true
end

-- A lot has a bit for each of its reservations, whether it is closed; and so much further on another,
-- whether it was cancelled.
local BLOCK = 4096
local function bit_of(number)
  return number + BLOCK * math.floor(number / BLOCK)
end

local read_lots = {}  -- what was read of lots and not changed since, by key

local function is_cancelled(lot, number)
  -- This key cannot be told beforehand: only what is remembered says in which lot it was granted.
  -- So it may be missing on a node of a cluster that its slot is leaving, which is an error.
  local lot_key = call.lots .. lot
  local marks = read_lots[lot_key] or redis.pcall('GET', lot_key)
  marks = type(marks) == 'string' and marks or ''
  read_lots[lot_key] = marks
  local place = bit_of(number) + BLOCK
  local byte = string.byte(marks, math.floor(place / 8) + 1) or 0
  return bit.band(byte, 2 ^ (7 - place % 8)) ~= 0
end

local function repeated(batch, i)
  local at_, count, _, waits, units_, lot, number, costs = unpack(batch)
  number = number + i - 1
  if is_cancelled(lot, number) then
    return CANCELLED, 0, 0
  end
  local start, charged = at_ + (waits and waits[i] or 0), {}
  for from = 8 * i - 7, #costs, 8 * count do
    charged[#charged + 1] = exact(struct.unpack('<d', costs, from))
  end
  local before = {exact(start), units_ and units_[i] or '-', table.concat(charged, ','), number, lot}
  return REPEAT, math.max(0, start - now), table.concat(before, ' ')
end

local function remember(run, batch, longest)
  run.batches[#run.batches + 1] = batch
  local kept_ = run.kept < 0 and longest - run.kept or run.kept
  run.until_, run.fresh = math.max(run.until_, now + kept_), true
end

-- Acquires a column, as far as it was not granted before.
local function acquire(lot, number, count, max_wait, request, places)
  local from, costs = position, {}
  for i = 1, n do
    costs[i] = take(count)
  end
  local packed = string.sub(ARGV[2], from, position - 1)
  local run = request and (runs[request] or recall_run(request))
  places = places or run and take(count)
  if count > 1 and (not run or are_new(run, places, count)) and acquire_at_once(costs) then
    if run then
      remember(run, {now, count, places, false, false, lot, number, packed}, 0)
    end
    return YES
  end
  local answer, waits, units_, longest, refused = {}, {}, {}, -1, false
  local batch = {now, count, places, waits, units_, lot, number, packed}
  for k = 1, count do
    local place, what, wait, by, before, index
    if run then
      place = place_of(places, k)
      before, index = granted(run, place)
    end
    if before then
      what, wait, by = repeated(before, index)
    else
      what, wait, by = acquire_one(lot, number + k - 1, max_wait, costs, k)
    end
    waits[k], units_[k] = -1, '-'
    if what == YES then
      waits[k], units_[k], longest = wait, units[by] or '-', wait  -- they start in order
      if run then
        run.batch_of[place], run.index_of[place] = batch, k
      end
    else
      refused = true
    end
    answer[3 * k - 2], answer[3 * k - 1], answer[3 * k] = what, wait, by
  end
  if run and longest >= 0 then
    run.indexed = run.indexed + 1
    remember(run, batch, longest)
  end
  return (refused or longest > 0) and answer or YES
end
