-- Carries out the operations. In order, each is one of
--
--   ['ask', name, path, rules, costs, lease, server, max_wait, lot, number, first, kept]
--   ['cancel', name, path, rules, costs, lot, number, start, untold]
--   ['askatonce', runs, path, rules, units, count, lease, server, max_wait, lot, number, kept]   columns:
--       costs by unit
--   ['settle', runs, path, rules, units, count, lease, lot]   columns: numbers, starts; and by unit, costs
--       and what they were in fact
--   ['renew', name, path, rules, costs, lease, start]
--   ['giveup', name, server]  ['release', runs]  ['where', name]
--   ['penalize', length]  ['observe', levels]  ['turn', server, epoch]  ['follow', path, rules]
--
-- rules are places in call.rules, of the root and of each node of the path; costs are by unit; max_wait
-- is negative for no bound, first false for now, start false where nobody knows it, and so is the lot
-- of what is settled. Runs are stems of names, each followed by the endings of those that have it, see
-- names.lua; settle has none where the lease is 0. The answers, with doubles as texts, are
--
--   ask       8 and the first question; 4, start, unit, lot and number; 6; 2, which node and which
--             limit, counted from 0; 3, the wait, the unit and which node; or 9, what is full and how
--             many it holds
--   askatonce 1; or 0, and the answer to ask of each
--   where     0; or 10, the rank, the wait, the unit, how deep the node is that is held, -1 for none,
--             and the values on its path
--   turn      the epoch; the microseconds until something is due; how many outcomes, and of each 1, the
--             name, the start, the unit, lot and number; or 3, the name, the wait, the unit, the id of
--             the node or nothing where none is held, and a number
--   settle    how many have changed nothing, and of each its position, counted from 0, and 0, 5 or 7
--   release   how many had no slots, and the positions of these, counted from 0
--   others    1, 0 or 7, see call.lua

local STANDING = 10
local BRINGS_RULES = {ask = true, askatonce = true, cancel = true, settle = true, renew = true, penalize = true,
                      observe = true, follow = true}

local carry_out = {ask = ask, askatonce = ask_at_once, settle = settle, release = release}

function carry_out.giveup(name, server)
  local entry = waiting_call(name)
  if not entry or entry.server ~= server then
    return {NO}
  end
  if not entry.out then
    take_out(name, entry)
  end
  forget_call(name, entry)
  return {entry.out and NO or YES}
end

function carry_out.cancel(name, path_, which, costs, lot, number, start, untold)
  local grant = untold ~= '' and same_grant(name, lot, number)
  if untold ~= '' and (not grant or grant.asked_by ~= untold) then
    return {NO}
  end
  start = start or grant and grant.start
  if not start then
    return {NO}
  elseif now >= start + call.settled_within then
    return {TOO_LATE}
  elseif untold == '' and start <= now or is_closed(lot, number) then
    return {NO}
  end
  if grant then
    take_grant_back(name)  -- its caller can still come, and stands in line anew
  end
  local _, mark_cancelled = marks_of_lots()
  mark_cancelled(call.lots .. lot, number, start)
  free_slots(name, false)
  local path = path_to(leaf_of(path_, which))
  local spans = sizes(path, costs)
  for k, node in ipairs(path) do
    refund(node, costs, start)
    give_turn_back(node, spans[k - 1])
  end
  corrected(path)
  return {YES}
end

function carry_out.renew(name, path_, which, costs, lease, start)
  sweep_line()
  if renew_lease(name, now + lease) then
    return {YES}
  end
  local path, has_slots = path_to(leaf_of(path_, which)), true
  for _, node in ipairs(path) do
    has_slots = has_slots and has_free_slot(node)
  end
  has_slots = has_slots and not is_over(name)
  if has_slots then
    take_slot(name, path, now + lease, start, sizes(path, costs))
  end
  rest(path[#path])
  return {has_slots and YES or NO}
end

function carry_out.follow(path, which)
  known_on(path, which)
  return {YES}
end

function carry_out.penalize(length)
  correct_root('penalize', length)
  corrected({root})
  return {YES}
end

function carry_out.observe(levels)
  correct_root('observe', levels)
  corrected({root})
  return {YES}
end

function carry_out.where(name)
  local entry = waiting_call(name)
  if not entry or entry.out then
    return {NO}
  end
  local rank, wait, node, unit = standing_of(name, entry)
  local values = node and values_to(node) or {}
  return {STANDING, rank, exact(wait), unit, node and #values or -1, unpack(values)}
end

function carry_out.turn(server, known)
  if root.waiting == 0 and meta.boxed == 0 and known == '' then  -- it holds nobody whom this concerns
    sweep_line()
    return {'', exact(math.max(0, next_at() - now)), 0}
  end
  sign(server)
  local epoch = meta.epoch .. '.' .. server_of(server).loss
  if meta.boxed > 0 then
    empty_outbox(server, INF, MOST_ARGUMENTS, function(packed)
      outcomes[#outcomes + 1] = packed
    end)
  end
  if known == '' or known == epoch then
    decide(is_silent, teller(server))
    epoch = meta.epoch .. '.' .. server_of(server).loss
  end
  local found = {epoch, exact(math.max(0, next_at() - now)), #outcomes}
  for _, packed in ipairs(outcomes) do
    local _, what, name, time, unit, lot, number = cmsgpack.unpack(packed)
    found[#found + 1], found[#found + 2], found[#found + 3] = what, name, exact(time)
    found[#found + 1], found[#found + 2], found[#found + 3] = unit, lot, number
  end
  outcomes = {}
  return found
end

-- A tree in which nothing has happened that still matters is as good as a new one.
local function begin_anew()
  redis.call('DEL', tree_key, key_of('holds'), key_of('emptying'), key_of('lapsing'))
  touched.tree = true  -- it expires no more
  flush_ready()  -- what was forgotten just now has left
  nodes, followers, dropped = {}, {}, {}
  forget_windows()
  heads.holds, heads.emptying = INF, INF
  for _, what in ipairs({'holds', 'emptying', 'lapsing'}) do
    fresh[what], gone[what] = nil, nil
  end
  root = new_node('', nil, told[call.root] or root.rules)
  nodes[''] = root
end

local function is_idle()
  return root.waiting == 0 and meta.leases == 0 and meta.boxed == 0 and meta.asked < now
    and root.empty_at <= now and idle_at(root) <= now
    and (root.children > 0 or root.clock > 0 or root.started_at > -INF)
end

local asked, stems = {}, {}
for _, operation in ipairs(call.operations) do
  if operation[1] == 'ask' then
    asked[#asked + 1] = operation[2]
    stems[#stems + 1] = parts_of(operation[2])
  end
end
read_calls(asked)
read_granted(asked)
read_remembered(stems)
sweep_servers()
for _, operation in ipairs(call.operations) do
  if is_idle() then
    begin_anew()
  end
  if BRINGS_RULES[operation[1]] then
    told_to(root, root_rules)
  end
  for _, each in ipairs(carry_out[operation[1]](unpack(operation, 2))) do
    answer(each)
  end
end
