-- The servers that hold callers: which of them are alive, and what they do not know yet.

local signs = {}  -- of life, by server; false where it is not known
local outcomes = {}  -- packed, of the server whose turn it is
local granted, changed_grants = {}, {}  -- by name: until_, start, unit, lot, number, is_known
local marks_  -- of lots, see marks.lua
local function marks_of_lots()
  marks_ = marks_ or {marking()}
  return unpack(marks_)
end

local function sign_of(server)
  if signs[server] == nil then
    signs[server] = tonumber(redis.call('ZSCORE', key_of('servers'), server) or nil) or false
  end
  return signs[server]
end

local function is_silent(server)
  local sign = sign_of(server)
  return not sign or sign <= now - call.silent
end

-- Something of its callers was forgotten: it must ask for all of them again.
local lost = {}
local function lose(server)
  if not lost[server] then
    lost[server], touched.losses = true, true
    redis.call('HSET', key_of('losses'), server, next_order())
  end
end

local function sign(server)
  if not sign_of(server) then
    lose(server)
  end
  signs[server] = now
  add('servers', now, server)
end

-- What was granted, for repeats -------------------------------------------------------------------

local function read_granted(names_)
  for i, packed in ipairs(#names_ > 0 and redis.call('HMGET', key_of('granted'), unpack(names_)) or {}) do
    local r = packed and {}
    if packed then
      r.until_, r.start, r.unit, r.lot, r.number, r.is_known = cmsgpack.unpack(packed)
    end
    granted[names_[i]] = r
  end
end

local function grant_of(name)
  if granted[name] == nil then
    read_granted({name})
  end
  local grant = granted[name]
  return grant and grant.until_ > now and grant
end

local function keep_grant(name, grant)
  granted[name], changed_grants[name] = grant, true
end

local function forget_grants(names_)
  if #names_ > 0 then
    redis.call('HDEL', key_of('granted'), unpack(names_))
    redis.call('ZREM', key_of('forget'), unpack(names_))
  end
end

-- Gives back a start that nobody has collected, as far as it may be.
local function take_back(name, start, lot, number, leaf_id, costs)
  local grant = grant_of(name)
  if grant and grant.lot == lot and grant.number == number then
    if grant.is_known then
      return
    end
    keep_grant(name, false)
  end
  free_slots(name, false)
  local path, ids = {root}, ids_to(leaf_id)
  for i, id in ipairs(ids) do
    path[i + 1] = path[i] and find(id)
  end
  local spans = sizes(path, costs)
  for k, node in ipairs(path) do
    refund(node, costs, start)
    give_turn_back(node, spans[k - 1])
  end
  corrected(path)
end

-- Their outboxes ----------------------------------------------------------------------------------

-- Calls a function with each outcome that a server has not collected, of those before some time.
local function empty_outbox(server, before, most, take)
  local part, taken_ = part_of(server), {}
  for i, member in ipairs(of_part('outbox', part, 'LIMIT', 0, most)) do
    local packed = string.sub(member, #part + 18)
    if cmsgpack.unpack(packed) > before then
      break
    end
    taken_[i] = member
    take(packed)
  end
  if #taken_ > 0 then
    redis.call('ZREM', key_of('outbox'), unpack(taken_))
    meta.boxed = meta.boxed - #taken_
  end
  return #taken_
end

-- Tells a server what became of a call; the one whose turn it is, at once.
local function teller(own)
  return function(what, name, entry, time, unit)
    if what == NO then
      entry.out = true
      keep_call(name, entry)
      return lose(entry.server)
    end
    forget_call(name, entry)
    if what == YES then
      keep_grant(name, {until_ = time + entry.kept, start = time, unit = unit, lot = entry.lot,
                        number = entry.number, is_known = entry.server == own})
    end
    local packed = cmsgpack.pack(now, what, name, time, unit, entry.lot, entry.number, entry.leaf,
                                 entry.costs)
    if entry.server == own then
      outcomes[#outcomes + 1] = packed
    else
      add('outbox', 0, part_of(entry.server) .. '/' .. fixed(next_order()) .. packed)
      meta.boxed = meta.boxed + 1
    end
  end
end

-- A server that is silent for so long does not collect its starts, and for twice that, its calls are
-- forgotten; some of them now, more in later calls.
local function sweep_silent(server)
  local taken_ = empty_outbox(server, now - call.silent, call.at_once, function(packed)
    local _, what, name, time, _, lot, number, leaf_id, costs = cmsgpack.unpack(packed)
    if what == YES then
      take_back(name, time, lot, number, leaf_id, costs)
    end
  end)
  if taken_ > 0 then
    lose(server)
  end
  if sign_of(server) > now - 2 * call.silent then
    return
  end
  local part = part_of(server)
  local members = of_part('of', part, 'LIMIT', 0, call.at_once)
  for _, member in ipairs(members) do
    local name = string.sub(member, #part + 2)
    local entry = waiting_call(name)
    if not entry.out then
      take_out(name, entry)
    end
    forget_call(name, entry)
  end
  if #members > 0 then
    lose(server)
  elseif taken_ == 0 then
    remove('servers', server)
    redis.call('HDEL', key_of('losses'), server)
    signs[server] = false
  end
end

-- While nobody has asked for so long, or the clock has jumped, no server could give a sign.
local function sweep_servers()
  if now - meta.seen > call.jump then
    for _, server in ipairs(redis.call('ZRANGE', key_of('servers'), 0, -1)) do
      signs[server] = now
      add('servers', now, server)
    end
    return
  end
  local silent = redis.call('ZRANGEBYSCORE', key_of('servers'), '-inf', now - call.silent,
                            'LIMIT', 0, call.at_once)
  for _, server in ipairs(silent) do
    sweep_silent(server)
  end
end
