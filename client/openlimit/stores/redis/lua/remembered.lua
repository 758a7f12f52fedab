-- What is remembered of calls for a while, by the stems of their names: what was granted, for repeats,
-- and which are over, whose late repeats take no slots again. It is in a hash of the latest, and in one
-- of those before them, which are forgotten all at once: nobody has to look for what has lapsed.

-- By stem: grants, of which later ones count; over, a record of each call that is over, the ending of
-- its name and until when it is remembered; and over_until, the latest of these. A grant has until_,
-- start, unit, lot, is_known, asked_by and the endings of the calls, which have the numbers from its
-- number on. The lot of one that was taken back is false.
local OVER = 3 + 8  -- bytes of such a record
local remembered, changed_stems = {}, {}

-- A tree that is made now may be one that was forgotten, or lost, before what is remembered was.
local is_made_now = not stored[1]
if is_made_now then
  meta.before_until = now + call.over_kept + 4 * call.silent
end

local function read_remembered(stems)
  local missing = {}
  for _, stem in ipairs(stems) do
    if not remembered[stem] then
      remembered[stem] = {grants = {}, over = '', over_until = 0}
      missing[#missing + 1] = stem
    end
  end
  local function read(what, is_latest)
    for from = 1, #missing, MOST_ARGUMENTS do
      local to = math.min(from + MOST_ARGUMENTS - 1, #missing)
      for i, packed in ipairs(redis.call('HMGET', key_of(what), unpack(missing, from, to))) do
        local r = remembered[missing[from + i - 1]]
        if packed then
          r.is_in_latest = is_latest
          r.grants, r.over, r.over_until = cmsgpack.unpack(packed)
        end
      end
    end
  end
  if meta.before_until > now then
    read('remembered:before', false)
  end
  if meta.latest_until > now or is_made_now then
    read('remembered', true)
  end
end

local function remembered_of(stem)
  if not remembered[stem] then
    read_remembered({stem})
  end
  return remembered[stem]
end

local function is_over(name)
  local stem, ending = parts_of(name)
  local over = remembered_of(stem).over
  local at = place_of(over, ending, OVER)
  return at and struct.unpack('>d', over, at + 3) > now
end

-- These calls are over.
local function keep_over(stem, endings)
  local r, until_, fresh_ = remembered_of(stem), now + call.over_kept, {}
  local packed = struct.pack('>d', until_)
  for from = 1, #endings, 3 do
    local ending = string.sub(endings, from, from + 2)
    local at = r.over ~= '' and place_of(r.over, ending, OVER)
    if at then
      r.over = string.sub(r.over, 1, at + 2) .. packed .. string.sub(r.over, at + OVER)
    else
      fresh_[#fresh_ + 1] = ending .. packed
    end
  end
  r.over, r.over_until = r.over .. table.concat(fresh_), until_
  changed_stems[stem] = true
end

-- What was granted to a call, with its own number; nothing if that has lapsed or was taken back.
local function grant_of(name)
  local stem, ending = parts_of(name)
  local grants = remembered_of(stem).grants
  for i = #grants, 1, -1 do
    local grant = grants[i]
    local at = place_of(grant.endings, ending, 3)
    if at then
      return grant.lot and grant.until_ > now
        and {until_ = grant.until_, start = grant.start, unit = grant.unit, lot = grant.lot,
             number = grant.number + (at - 1) / 3, is_known = grant.is_known,
             asked_by = grant.asked_by} or nil
    end
  end
end

local function keep_grants(stem, grant)
  table.insert(remembered_of(stem).grants, grant)
  changed_stems[stem] = true
end

-- A grant to a single call, instead of what it had.
local function keep_grant(name, grant)
  local stem, ending = parts_of(name)
  local grants = remembered_of(stem).grants
  for i = #grants, 1, -1 do
    if grants[i].endings == ending then
      table.remove(grants, i)
    end
  end
  grant.endings = ending
  keep_grants(stem, grant)
end

-- Nothing is granted any more to a call that was.
local function take_grant_back(name)
  keep_grant(name, {until_ = grant_of(name).until_, start = 0, unit = '', lot = false, number = 0})
end

-- Of those that have not lapsed, and of the later ones, which count.
local function lasting(grants)
  local first = 1
  while grants[first] and grants[first].until_ <= now do
    first = first + 1
  end
  return {unpack(grants, first)}
end

local function write_remembered()
  local fields_, until_, fresh_ = {}, 0, 0
  for stem in pairs(changed_stems) do
    local r = remembered[stem]
    local grants = lasting(r.grants)
    r.over = r.over_until > now and r.over or ''
    fields_[#fields_ + 1] = stem
    fields_[#fields_ + 1] = cmsgpack.pack(grants, r.over, r.over_until)
    until_, fresh_ = math.max(until_, r.over_until), fresh_ + (r.is_in_latest and 0 or 1)
    for _, grant in ipairs(grants) do
      until_ = math.max(until_, grant.until_)
    end
  end
  if #fields_ == 0 then
    return
  end
  local latest, before = key_of('remembered'), key_of('remembered:before')
  if meta.many >= call.repeats / 2 or meta.many > 0 and meta.before_until <= now then
    redis.call('UNLINK', before)
    redis.pcall('RENAME', latest, before)  -- unless somebody has deleted it
    meta.before_until, meta.latest_until, meta.many, fresh_ = meta.latest_until, 0, 0, #fields_ / 2
  end
  send_all('HSET', latest, fields_)
  meta.many = meta.many + fresh_
  if until_ > meta.latest_until then
    meta.latest_until = until_ + 4 * call.silent
    if own_clock then
      redis.call('PEXPIRE', latest, milliseconds_until(meta.latest_until))
    end
  end
end
