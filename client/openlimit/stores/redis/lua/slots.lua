-- Slots of calls that run at the same time: what slots.py does.

-- By stem: groups of the calls that have slots by the same lease, each with until_, leaf, start, the
-- width of its records, and these: of each call, the ending of its name and its sizes, as doubles; and
-- ends_at, when the first lease ends, as it is in ends. False where there is none.
local leases, changed_leases = {}, {}
local latest_end = 0  -- of the leases that begin now

local function read_leases(stems)
  local missing = {}
  for _, stem in ipairs(stems) do
    if leases[stem] == nil then
      leases[stem], missing[#missing + 1] = false, stem
    end
  end
  if meta.leases == 0 or #missing == 0 then
    return
  end
  for from = 1, #missing, MOST_ARGUMENTS do
    local to = math.min(from + MOST_ARGUMENTS - 1, #missing)
    for i, packed in ipairs(redis.call('HMGET', key_of('leases'), unpack(missing, from, to))) do
      if packed then
        local r = {}
        r.ends_at, r.groups = cmsgpack.unpack(packed)
        leases[missing[from + i - 1]] = r
      end
    end
  end
end

local function leases_of(stem)
  if leases[stem] == nil then
    read_leases({stem})
  end
  return leases[stem]
end

-- The group in which a call has its slots, and where its record begins.
local function lease_of(name)
  local stem, ending = parts_of(name)
  local r = leases_of(stem)
  for _, group in ipairs(r and r.groups or {}) do
    local at = place_of(group.records, ending, group.width)
    if at then
      return group, at
    end
  end
end

-- Notes when the first lease of a stem ends.
local function keep_leases(stem)
  local r, ends_at = leases[stem], INF
  for i = #r.groups, 1, -1 do
    if r.groups[i].records == '' then
      table.remove(r.groups, i)
    else
      ends_at = math.min(ends_at, r.groups[i].until_)
    end
  end
  changed_leases[stem] = true
  if #r.groups == 0 then
    remove('ends', stem, r.ends_at)
    leases[stem] = false
  elseif ends_at ~= r.ends_at then
    remove('ends', stem, r.ends_at)
    add('ends', ends_at, stem)
    r.ends_at = ends_at
  end
end

-- Lets calls of a stem have slots by a lease.
local function add_records(stem, until_, leaf, start, width, records)
  local r = leases_of(stem) or {groups = {}}
  local last = r.groups[#r.groups]
  leases[stem] = r
  if last and last.until_ == until_ and last.leaf == leaf and last.start == start and last.width == width then
    last.records = last.records .. records
  else
    r.groups[#r.groups + 1] = {until_ = until_, leaf = leaf, start = start, width = width,
                               records = records}
  end
  latest_end = math.max(latest_end, until_)
  keep_leases(stem)
end

-- A slot in each node of the path for each of these calls.
local function take_slots(stem, path, until_, start, width, records)
  local count = #records / width
  add_records(stem, until_, path[#path].id, start, width, records)
  meta.leases = meta.leases + count
  for _, node in ipairs(path) do
    node.running = node.running + count
  end
end

-- The record of a call whose name ends so: its sizes are at the nodes from the root on.
local function record_of(ending, path, sizes_)
  return ending .. struct.pack('>' .. string.rep('d', #path - 1), unpack(sizes_, 1, #path - 1))
end

local function take_slot(name, path, until_, start, sizes_)
  local stem, ending = parts_of(name)
  local record = record_of(ending, path, sizes_)
  take_slots(stem, path, until_, start, #record, record)
end

-- Slots for all calls of runs, see runs.lua, which start now; sizes are by node and call.
local function take_all_slots(runs, path, sizes_, until_)
  local which = 0
  for i = 1, #runs, 2 do
    local stem, records = runs[i], runs[i + 1]
    if #path > 1 then
      local all = {}
      for from = 1, #records, 3 do
        local own = {}
        which = which + 1
        for k = 1, #path - 1 do
          own[k] = sizes_[k][which]
        end
        all[#all + 1] = record_of(string.sub(records, from, from + 2), path, own)
      end
      records = table.concat(all)
    end
    take_slots(stem, path, until_, now, 8 * #path - 5, records)
  end
end

-- Lets a call have its slots until then, or longer if it has; whether it has any.
local function renew_lease(name, until_)
  local group, at = lease_of(name)
  if group and group.until_ < until_ then
    local stem, width = parts_of(name), group.width
    local record = string.sub(group.records, at, at + width - 1)
    group.records = string.sub(group.records, 1, at - 1) .. string.sub(group.records, at + width)
    add_records(stem, until_, group.leaf, group.start, width, record)
  end
  return group ~= nil
end

-- Frees slots of calls that have this lease, and goes on with the calls that waited for them. Where
-- they are over, their turns are charged for the time that they held them.
local function free_records(group, records, is_over)
  local path, count = path_to(find(group.leaf)), #records / group.width
  meta.leases = meta.leases - count
  for _, node in ipairs(path) do
    node.running = node.running - count
  end
  local format_ = '>' .. string.rep('d', #path - 1)
  for from = 4, is_over and #path > 1 and #records or 0, group.width do
    local sizes_, share = {struct.unpack(format_, records, from)}, 0
    for k = 2, #path do
      share = math.max(share, (now - group.start) / path[k - 1].rules.slots)
      owe(path[k], share - sizes_[k - 1])
    end
  end
  for _, node in ipairs(path) do
    if node.held_until == INF then
      let_go(node)
    end
  end
  rest(path[#path])
end

-- Frees the slots of a call; whether it had any.
local function free_slots(name, is_over)
  local group, at = lease_of(name)
  if not group then
    return false
  end
  local record = string.sub(group.records, at, at + group.width - 1)
  group.records = string.sub(group.records, 1, at - 1) .. string.sub(group.records, at + group.width)
  keep_leases((parts_of(name)))
  free_records(group, record, is_over)
  return true
end

-- Frees those of the calls of a stem that are over; the places of the endings that had none.
local function free_all(stem, endings)
  local r, without = leases_of(stem), {}
  local group = r and r.groups[1]
  if group and group.records == endings then  -- all of a run
    group.records = ''
    keep_leases(stem)
    free_records(group, endings, true)
    return without
  end
  for from = 1, #endings, 3 do
    if not free_slots(whole_name(stem, string.sub(endings, from, from + 2)), true) then
      without[#without + 1] = (from - 1) / 3
    end
  end
  return without
end

-- Frees those whose leases have ended, in this order; some now, more in later calls.
local function free_ended()
  local ended = {}
  for _, stem in ipairs(due('ends')) do
    for _, group in ipairs(leases_of(stem).groups) do
      for from = 1, group.until_ <= now and #group.records or 0, group.width do
        ended[#ended + 1] = {group.until_, whole_name(stem, string.sub(group.records, from, from + 2))}
      end
    end
    if #ended >= call.at_once then
      break
    end
  end
  table.sort(ended, function(one, other)
    return one[1] < other[1] or one[1] == other[1] and one[2] < other[2]
  end)
  for i = 1, math.min(#ended, call.at_once) do
    free_slots(ended[i][2], true)
  end
end

-- What time has brought about: ends of holds and leases, and what can be forgotten.
local function sweep_line()
  for _, member in ipairs(due('holds')) do
    local node = take_hold(member)
    if node then
      let_go(node)
    end
  end
  free_ended()
  for _, member in ipairs(due('emptying')) do
    remove('emptying', member, heads.emptying)
    look_after_mentioned(string.sub(member, 17))
  end
end
