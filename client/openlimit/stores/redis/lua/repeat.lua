-- Acquires for requests, and remembers what was granted to them. These functions, too, are made
-- when they are first needed.

local runs = {}  -- by request

local function repetition()
  -- What was granted to one request, whose places may have been asked in several calls: in batches of
  -- {now, count, places, waits, units, lot, number, costs}. places is the first of them, if they
  -- follow one another, or a list. waits and units are lists, with -1 for what was not granted; or
  -- false, where all started at once. number is that of the first in the lot, which the others
  -- follow; costs are the columns as they came.
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
    local before = {exact(start), units_ and units_[i] or '-', table.concat(charged, ','), number,
                    lot}
    return REPEAT, math.max(0, start - now), table.concat(before, ' ')
  end

  local function remember(run, batch, longest)
    run.batches[#run.batches + 1] = batch
    local kept_ = run.kept < 0 and longest - run.kept or run.kept
    run.until_, run.fresh = math.max(run.until_, now + kept_), true
  end

  return function(lot, number, count, max_wait, request, places)
    local from = taken
    taken = taken + n * count
    local packed = string.sub(ARGV[2], 8 * from + 1, 8 * taken)
    local run = runs[request] or recall_run(request)
    places = places or take_column(count)
    if are_new(run, places, count) and acquire_at_once(from, count) then
      remember(run, {now, count, places, false, false, lot, number, packed}, 0)
      return answer(YES)
    end
    answer(NO)
    local waits, units_, longest = {}, {}, -1
    local batch = {now, count, places, waits, units_, lot, number, packed}
    for k = 1, count do
      local place = place_of(places, k)
      local before, index = granted(run, place)
      local what, wait, by
      if before then
        what, wait, by = repeated(before, index)
      else
        what, wait, by = acquire_one(lot, number + k - 1, max_wait, from + k, count)
      end
      waits[k], units_[k] = -1, '-'
      if what == YES then
        waits[k], units_[k], longest = wait, units[by] or '-', wait  -- they start in order
        run.batch_of[place], run.index_of[place] = batch, k
      end
      answer_all(what, wait, by)
    end
    if longest >= 0 then
      run.indexed = run.indexed + 1
      remember(run, batch, longest)
    end
  end
end
