-- What is remembered of calls for a while: what was granted, for repeats, and which are over, whose
-- late repeats take no slots again. It is in a hash of the latest, and in one of those before them,
-- which are forgotten all at once: nobody has to look for what has lapsed. The fields are of
--
--   r:<stem>   runs: grants to those that started at once, each with until_, start, lot, server and the
--              endings of its calls, which have the numbers from its number on; over, the endings of the calls
--              that are over, and over_until, until when all of them are known
--   g:<name>   what was granted to a single call: until_, start, unit, lot, number; is_known, whether a
--              server was told; asked_by, the only one that has asked for it, false where several have.
--              The lot of a grant that was taken back is false. Where a call also has a part in that of
--              a run, its own counts.

-- By stem and by name; false, where nothing was granted to a single call.
local remembered, changed_runs = {}, {}
local granted, changed_grants = {}, {}
local is_in_latest = {}  -- by field

local LATEST, BEFORE = key_of('remembered'), key_of('remembered:before')

local function last_until(until_)
  meta.latest_until = until_
  if own_clock then
    redis.call('PEXPIRE', LATEST, milliseconds_until(until_))
  end
end

-- What is remembered may outlive its tree: then nothing says until when it lasts.
if not stored[1] then
  local until_ = now + call.over_kept + 4 * call.silent
  if redis.call('EXISTS', LATEST) > 0 then
    last_until(until_)
  end
  if redis.call('EXISTS', BEFORE) > 0 then
    meta.before_until = until_
  end
  meta.granted_until = math.max(meta.latest_until, meta.before_until)
end

-- Reads the fields that begin so, and hands over those that there are.
local function recall(begin, names_, take)
  local function read(where, is_latest)
    for from = 1, #names_, MOST_ARGUMENTS do
      local fields_ = {}
      for i = from, math.min(from + MOST_ARGUMENTS - 1, #names_) do
        fields_[#fields_ + 1] = begin .. names_[i]
      end
      for i, packed in ipairs(redis.call('HMGET', where, unpack(fields_))) do
        if packed then
          is_in_latest[fields_[i]] = is_latest
          take(names_[from + i - 1], packed)
        end
      end
    end
  end
  if meta.before_until > now then
    read(BEFORE, false)
  end
  if meta.latest_until > now then
    read(LATEST, true)
  end
end

local function read_remembered(stems)
  local missing = {}
  for _, stem in ipairs(stems) do
    if not remembered[stem] then
      remembered[stem] = {grants = {}, over = '', over_until = 0}
      missing[#missing + 1] = stem
    end
  end
  recall('r:', missing, function(stem, packed)
    local r = remembered[stem]
    r.grants, r.over, r.over_until = cmsgpack.unpack(packed)
  end)
end

local function read_granted(names_)
  local missing = {}
  for _, name in ipairs(names_) do
    if granted[name] == nil then
      granted[name], missing[#missing + 1] = false, name
    end
  end
  if meta.granted_until > now then
    recall('g:', missing, function(name, packed)
      local r = {}
      r.until_, r.start, r.unit, r.lot, r.number, r.is_known, r.asked_by = cmsgpack.unpack(packed)
      granted[name] = r
    end)
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
  local r = remembered_of(stem)
  return r.over_until > now and place_of(r.over, ending, 3)
end

-- These calls are over.
local function keep_over(stem, endings)
  local r = remembered_of(stem)
  if r.over == '' or r.over_until <= now then
    r.over = endings
  else
    for from = 1, #endings, 3 do
      local ending = string.sub(endings, from, from + 2)
      if not place_of(r.over, ending, 3) then
        r.over = r.over .. ending
      end
    end
  end
  r.over_until, changed_runs[stem] = now + call.over_kept, true
end

-- What was granted to a call in a run, with its own number.
local function grant_in_run(name)
  local stem, ending = parts_of(name)
  local grants = remembered_of(stem).grants
  for i = #grants, 1, -1 do
    local grant, at = grants[i], place_of(grants[i].endings, ending, 3)
    if at then
      return {until_ = grant.until_, start = grant.start, unit = '', lot = grant.lot,
              number = grant.number + (at - 1) / 3, is_known = true, asked_by = grant.server}
    end
  end
end

-- What was granted to a call; nothing if that has lapsed or was taken back.
local function grant_of(name)
  if granted[name] == nil then
    read_granted({name})
  end
  local grant = granted[name]
  if not grant or grant.until_ <= now then  -- one that has lapsed may hide that of a later run
    local in_run = grant_in_run(name)
    grant = in_run and in_run.start > (grant and grant.start or -INF) and in_run
  end
  return grant and grant.lot and grant.until_ > now and grant
end

-- The same, if it is this one. Of one that is forgotten, nobody knows any more who was told.
local function same_grant(name, lot, number)
  local grant = grant_of(name)
  return grant and grant.lot == lot and grant.number == number and grant
end

local function keep_grant(name, grant)
  granted[name], changed_grants[name] = grant, true
  meta.granted_until = math.max(meta.granted_until, grant.until_)
end

-- Nothing is granted any more to a call that was.
local function take_grant_back(name)
  keep_grant(name, {until_ = grant_of(name).until_, start = 0, unit = '', lot = false, number = 0})
end

-- Of a run that starts now.
local function keep_run(stem, endings, until_, lot, number, server)
  table.insert(remembered_of(stem).grants, {until_ = until_, start = now, lot = lot, number = number,
                                            endings = endings, server = server})
  changed_runs[stem] = true
  for from = 1, meta.granted_until > now and #endings or 0, 3 do
    local name = whole_name(stem, string.sub(endings, from, from + 2))
    if granted[name] then  -- and taken back, or lapsed
      keep_grant(name, {until_ = until_, start = now, unit = '', lot = lot,
                        number = number + (from - 1) / 3, is_known = true, asked_by = server})
    end
  end
end

local function write_remembered()
  local fields_, until_, fresh_ = {}, 0, 0
  local function write(field, lasts, packed)
    fields_[#fields_ + 1], fields_[#fields_ + 2] = field, packed
    until_, fresh_ = math.max(until_, lasts), fresh_ + (is_in_latest[field] and 0 or 1)
  end
  for name in pairs(changed_grants) do
    local r = granted[name]
    write('g:' .. name, r.until_, cmsgpack.pack(r.until_, r.start, r.unit, r.lot, r.number,
                                                r.is_known or false, r.asked_by or false))
  end
  for stem in pairs(changed_runs) do
    local r, grants = remembered[stem], {}
    local lasts = r.over_until
    for _, grant in ipairs(r.grants) do
      if grant.until_ > now then
        grants[#grants + 1], lasts = grant, math.max(lasts, grant.until_)
      end
    end
    write('r:' .. stem, lasts, cmsgpack.pack(grants, r.over_until > now and r.over or '', r.over_until))
  end
  if #fields_ == 0 then
    return
  end
  if meta.many >= call.repeats / 2 or meta.many > 0 and meta.before_until <= now then
    redis.call('UNLINK', BEFORE)
    redis.pcall('RENAME', LATEST, BEFORE)  -- unless somebody has deleted it
    meta.before_until, meta.latest_until, meta.many, fresh_ = meta.latest_until, 0, 0, #fields_ / 2
  end
  send_all('HSET', LATEST, fields_)
  meta.many = meta.many + fresh_
  if until_ > meta.latest_until then
    last_until(until_ + 4 * call.silent)
  end
end
