-- The tree of a bucket, and the line of those who wait for it: what it was told and did last. Goes on
-- in the other files, see __init__.py; together they do what line.py and memory_lines.py do, step by
-- step, and what several servers need.
--
-- KEYS[1]  the root's bucket, the same hash as that of a bucket without a line, see call.lua
-- KEYS[2]  the tree, a hash:
--            meta          order, a counter; epoch, which tells it from one that was lost; seen, shift;
--                          how many calls have slots; how many outcomes are not collected yet;
--                          until when the keys last; asked, when the latest call first was; how
--                          much is remembered in the latest hash, until when that lasts, and until
--                          when the one before it and what was granted to single calls, see
--                          remembered.lua; heads, see sets.lua
--            n:<id>        a node, see tree.lua. The root's id is empty; another's is that of its
--                          parent with its value and the length of that: 3:abc2:de
--            r:<digest>    rules, and u:<digest>: how many nodes follow them
-- Beside it, all with one hash tag, each present only as long as it has something to say; where a
-- key holds a part for each node or server, it begins the members, which are in order of their bytes:
--   calls      hash of those that wait, see line.lua
--   places     these in their leaves: by first question, then name
--   ready      children whose next call may be tried: by finish, then the order in which they came
--   lapsing    children that could be forgotten once the clock has reached their finish
--   holds      sorted set of nodes that are held, by until when
--   emptying   sorted set of nodes that could be forgotten, by when they are empty
--   deadlines  sorted set of those that wait, by deadline
--   leases     hash of those that have slots, by the stems of their names; ends: sorted set of these
--              stems, by when the first of their leases ends
--   remembered   hash of what was granted and which calls are over, and remembered:before, see
--              remembered.lua
--   servers    hash of servers: their last sign of life, and a number that changes when something of
--              theirs was forgotten
--   of         the calls that each server holds
--   outbox     what was decided of them: in order
-- ARGV[1]  JSON, beside clock, lots, settled_within and marked (see call.lua):
--            line          how the keys beside the tree begin
--            rules         [digest, weight, slots or -1, limits] each
--            root          which of these are the root's; false for those that it had
--            fresh         what tells a tree that is made now from all before
--            horizon, at_once, in_leaf, in_tree, below_child, children, repeats, silent, jump,
--            shortest, latest_use, least_use, latest_pace
--                          constants, see line.py, tree.py and lines.py
--            operations    see carry_out.lua
-- ARGV[2]  the operations' columns of numbers, as doubles
-- Returns  the time, and then the answers to the operations.

local INF = math.huge

local tree_key, known_rules = KEYS[2], {}
local stored = redis.call('HMGET', tree_key, 'meta', 'n:')

local function key_of(what)
  return call.line .. what
end

local meta = {order = 0, epoch = call.fresh, seen = -INF, shift = 0, leases = 0, boxed = 0, until_ = 0,
              asked = 0, many = 0, latest_until = 0, before_until = 0, granted_until = 0,
              heads = {holds = INF, deadlines = INF, ends = INF, emptying = INF, servers = INF}}
if stored[1] then
  meta.order, meta.epoch, meta.seen, meta.shift, meta.leases, meta.boxed, meta.until_,
    meta.asked, meta.many, meta.latest_until, meta.before_until, meta.granted_until, meta.heads
    = cmsgpack.unpack(stored[1])
  seen, shift = meta.seen, meta.shift
end

local function read_rules(digest, weight, slots, limits)
  local rules = {digest = digest, weight = weight, slots = slots < 0 and INF or slots,
                 n = #limits, limits = limits, names = {}, units = {}, amount = {}, capacity = {},
                 rate = {}, most = {}, of_name = {}, of_unit = {}}
  for i, limit in ipairs(limits) do
    rules.names[i], rules.units[i], rules.amount[i], rules.capacity[i], rules.rate[i], rules.most[i]
      = unpack(limit)
    rules.of_name[rules.names[i]], rules.of_unit[rules.units[i]] = i, i
  end
  rules.limited = table.concat(rules.names, ' ')
  known_rules[digest] = rules
  return rules
end

local told = {}
for i, each in ipairs(call.rules) do
  told[i] = read_rules(unpack(each))
end

local function rules_of(digest)
  return known_rules[digest]
    or read_rules(digest, cmsgpack.unpack(redis.call('HGET', tree_key, 'r:' .. digest)))
end

-- Those of the root's bucket; none where nothing was ever told of this tree.
local root_rules = told[call.root]
if not root_rules and stored[2] then
  local _, _, _, digest = cmsgpack.unpack_limit(stored[2], 3)
  root_rules = rules_of(digest)
end
if root_rules then
  call.limits = root_rules.limits
else
  local then_ = redis.call('HMGET', key, 'seen', 'shift')
  local now = clock + math.max(shift, tonumber(then_[2]) or 0)
  answer(math.max(now, seen, tonumber(then_[1]) or -INF))
  for _, operation in ipairs(call.operations) do
    if operation[1] == 'turn' then
      answer('')
      answer('inf')
    end
    local count = 0  -- of what is released, of which none has slots
    for i = 2, operation[1] == 'release' and #operation[2] or 0, 2 do
      count = count + #operation[2][i] / 3
    end
    answer(count)
    for i = 1, count do
      answer(i - 1)
    end
  end
  return answers
end
