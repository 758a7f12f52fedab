-- The servers that hold callers: which of them are alive, and what they do not know yet.

local servers, changed_servers = {}, {}  -- by name: sign, of life, and loss; false for none
local outcomes = {}  -- packed, of the server whose turn it is

local function server_of(name)
  if servers[name] == nil then
    local packed, r = redis.call('HGET', key_of('servers'), name), false
    if packed then
      r = {}
      r.sign, r.loss = cmsgpack.unpack(packed)
    end
    servers[name] = r
  end
  return servers[name]
end

local function is_silent(name)
  local server = server_of(name)
  return not server or server.sign <= now - call.silent
end

-- Something of its callers was forgotten: it must ask for all of them again.
local function lose(name)
  if not changed_servers[name] then
    server_of(name).loss = next_order()
    changed_servers[name] = true
  end
end

local function sign(name)
  servers[name] = server_of(name) or {sign = now, loss = next_order()}
  servers[name].sign, changed_servers[name] = now, changed_servers[name] or false
  heads.servers = math.min(heads.servers, now)
end

-- Gives back a start that nobody has collected, as far as it may be.
local function take_back(name, start, lot, number, leaf_id, costs)
  local grant = same_grant(name, lot, number)
  if not grant or grant.is_known then
    return
  end
  take_grant_back(name)
  if is_cancelled(lot, number) then
    return
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
  flush('outbox')
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
  return function(what, name, entry, time, unit, node)
    if what == NO then
      entry.out = true
      keep_call(name, entry)
      return lose(entry.server)
    end
    forget_call(name, entry)
    if what == YES then
      keep_grant(name, {until_ = time + entry.kept, start = time, unit = unit, lot = entry.lot,
                        number = entry.number, is_known = entry.server == own,
                        asked_by = entry.server})
    end
    local lot = entry.lot
    if what == WAIT_TOO_LONG then
      lot = node and node.id or false
    end
    local packed = cmsgpack.pack(now, what, name, time, unit, lot, entry.number, entry.leaf, entry.costs)
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
  local is_forgotten = server_of(server).sign <= now - 2 * call.silent
  local before = is_forgotten and INF or now - call.silent  -- what came later are refusals
  local taken_ = empty_outbox(server, before, call.at_once, function(packed)
    local _, what, name, time, _, lot, number, leaf_id, costs = cmsgpack.unpack(packed)
    if what == YES then
      take_back(name, time, lot, number, leaf_id, costs)
    end
  end)
  if taken_ > 0 then
    lose(server)
  end
  if not is_forgotten then
    return
  end
  local part = part_of(server)
  flush('of')
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
    servers[server], changed_servers[server] = false, true
  end
end

-- While nobody has asked for so long, or the clock has jumped, no server could give a sign.
local function sweep_servers()
  local has_jumped = now - meta.seen > call.jump
  if not has_jumped and heads.servers > now - call.silent then
    return
  end
  heads.servers = INF
  for _, name in ipairs(redis.call('HKEYS', key_of('servers'))) do
    if has_jumped then
      sign(name)
    elseif is_silent(name) then
      sweep_silent(name)
    end
    if servers[name] then
      heads.servers = math.min(heads.servers, servers[name].sign)
    end
  end
end
