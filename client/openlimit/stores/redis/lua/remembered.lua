-- What is remembered for a while: what was granted, for repeats, and which calls are over. Each in a
-- hash of the latest, and in one of those before them, which are forgotten all at once: nobody has to
-- look for what has lapsed.

-- The values of these fields, false for those that there are none of.
local function recall_fields(what, fields_)
  local latest, before = key_of(what), key_of(what .. ':before')
  if #fields_ == 0 or redis.call('EXISTS', latest, before) == 0 then
    return {}
  end
  local values = redis.call('HMGET', latest, unpack(fields_))
  for i, value in ipairs(redis.call('HMGET', before, unpack(fields_))) do
    values[i] = values[i] or value
  end
  return values
end

-- Remembers fields and their values until then, or until there are too many later ones.
local function remember_fields(what, fields_, until_)
  if #fields_ == 0 then
    return
  end
  local latest, before = key_of(what), key_of(what .. ':before')
  local many = redis.call('HLEN', latest)
  if many >= call.repeats / 2 or many > 0 and redis.call('EXISTS', before) == 0 then
    redis.call('UNLINK', before)
    redis.call('RENAME', latest, before)
  end
  send_all('HSET', latest, fields_)
  local lifetime = milliseconds_until(until_)
  if own_clock and redis.call('PTTL', latest) < tonumber(lifetime) then
    redis.call('PEXPIRE', latest, lifetime)
  end
end

-- Calls that are over: late repeats of what held their slots take none again.
local over = {}
local function is_over(name)
  return over[name] or (tonumber(recall_fields('over', {name})[1]) or 0) > now
end

-- What was granted ------------------------------------------------------------------------------

-- To single calls, by name: until_, start, unit, lot, number, is_known, asked_by. The lot of one that
-- was taken back is false.
local granted, changed_grants = {}, {}
-- To runs that started at once, whose names differ in their last characters only, by what these have
-- in common: a list of grants, each with the endings of the names that have the numbers from its own
-- on. Where a call also has a grant of its own, that one counts.
local runs_of, changed_runs = {}, {}

local function parts_of(name)
  return string.sub(name, 1, -4), string.sub(name, -3)
end

-- Reads what is remembered of these calls; whether there may be anything.
local function read_granted(names_)
  local stems, is_missing, are_remembered = {}, {}, false
  for i, packed in ipairs(recall_fields('granted', names_)) do
    local r = packed and {}
    if packed then
      r.until_, r.start, r.unit, r.lot, r.number, r.is_known, r.asked_by = cmsgpack.unpack(packed)
    end
    if granted[names_[i]] == nil then
      granted[names_[i]] = r
    end
  end
  for _, name in ipairs(names_) do
    local stem = parts_of(name)
    granted[name] = granted[name] or false
    if not runs_of[stem] and not is_missing[stem] then
      stems[#stems + 1], is_missing[stem] = stem, true
    end
    are_remembered = are_remembered or granted[name] or not is_missing[stem]
  end
  local packed = recall_fields('runs', stems)
  for i, stem in ipairs(stems) do
    runs_of[stem] = packed[i] and cmsgpack.unpack(packed[i]) or {}
    are_remembered = are_remembered or packed[i]
  end
  return are_remembered
end

-- The grant of a run that a call had a part in, and which.
local function grant_in_run(name)
  local stem, ending = parts_of(name)
  local run = runs_of[stem]
  for i = #run, 1, -1 do
    for k, each in ipairs(run[i].endings) do
      if each == ending then
        return run[i], k - 1
      end
    end
  end
end

local function grant_of(name)
  if granted[name] == nil then
    read_granted({name})
  end
  local grant = granted[name]
  if not grant then
    local of_run, which = grant_in_run(name)
    grant = of_run and {until_ = of_run.until_, start = of_run.start, unit = '', lot = of_run.lot,
                        number = of_run.number + which, is_known = true}
  end
  return grant and grant.lot and grant.until_ > now and grant
end

local function keep_grant(name, grant)
  granted[name], changed_grants[name] = grant, true
end

-- Nothing is granted any more to a call that was.
local function take_grant_back(name)
  keep_grant(name, {until_ = grant_of(name).until_, start = 0, unit = '', lot = false, number = 0})
end

-- Of calls that start now.
local function keep_run(names_, until_, lot, number)
  local stem, grant
  for i, name in ipairs(names_) do
    local stem_, ending = parts_of(name)
    if stem_ ~= stem then
      stem, grant = stem_, {until_ = until_, start = now, lot = lot, number = number + i - 1, endings = {}}
      table.insert(runs_of[stem], grant)
      changed_runs[stem] = true
    end
    grant.endings[#grant.endings + 1] = ending
    if granted[name] then  -- and taken back, or lapsed
      keep_grant(name, {until_ = until_, start = now, unit = '', lot = lot, number = number + i - 1,
                        is_known = true})
    end
  end
end

-- Writes it all ---------------------------------------------------------------------------------

local function write_remembered()
  local fields_, until_ = {}, 0
  for name in pairs(changed_grants) do
    local r = granted[name]
    fields_[#fields_ + 1] = name
    fields_[#fields_ + 1] = cmsgpack.pack(r.until_, r.start, r.unit, r.lot, r.number, r.is_known or false,
                                          r.asked_by or false)
    until_ = math.max(until_, r.until_)
  end
  remember_fields('granted', fields_, until_)
  fields_, until_ = {}, 0
  for stem in pairs(changed_runs) do
    local run = {}
    for _, grant in ipairs(runs_of[stem]) do
      if grant.until_ > now then
        run[#run + 1], until_ = grant, math.max(until_, grant.until_)
      end
    end
    fields_[#fields_ + 1], fields_[#fields_ + 2] = stem, cmsgpack.pack(run)
  end
  remember_fields('runs', fields_, until_)
  fields_, until_ = {}, now + call.over_kept
  local value = exact(until_)
  for name in pairs(over) do
    fields_[#fields_ + 1], fields_[#fields_ + 2] = name, value
  end
  remember_fields('over', fields_, until_)
end
