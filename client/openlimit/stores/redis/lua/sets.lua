-- The sorted sets beside the tree. What is added and removed is written before a set is read, or at the
-- end.

local heads = meta.heads  -- the least scores, as far as they are known; no member has less
local fresh, gone = {}, {}  -- what is to be written, by set and member
local touched = {}  -- sets and hashes that were added to

-- Puts a member of a set into one of the two, and out of the other.
local function queue(into, out_of, what, member, value)
  local list, others = into[what], out_of[what]
  if not list then
    list = {}
    into[what] = list
  end
  list[member] = value
  if others and others[member] then
    others[member] = nil
  end
end

local function add(what, score, member)
  queue(fresh, gone, what, member, score)
  if heads[what] and score < heads[what] then
    heads[what] = score
  end
end

local function remove(what, member, score)
  queue(gone, fresh, what, member, true)
  if score and heads[what] == score then
    heads[what] = false
  end
end

local function send_all(command, where, arguments)
  for from = 1, #arguments, MOST_ARGUMENTS do
    local to = math.min(from + MOST_ARGUMENTS - 1, #arguments)
    redis.call(command, where, unpack(arguments, from, to))
  end
end

local function flush(what)
  local members = {}
  for member in pairs(gone[what] or {}) do
    members[#members + 1] = member
  end
  send_all('ZREM', key_of(what), members)
  members = {}
  local before, text  -- many have the same, and Redis takes long over a number
  for member, score in pairs(fresh[what] or {}) do
    if score ~= before then
      before, text = score, exact(score)
    end
    members[#members + 1], members[#members + 2] = text, member
  end
  send_all('ZADD', key_of(what), members)
  touched[what] = touched[what] or #members > 0
  fresh[what], gone[what] = nil, nil
end

local function head_of(what)
  if not heads[what] then
    flush(what)
    heads[what] = tonumber(redis.call('ZRANGE', key_of(what), 0, 0, 'WITHSCORES')[2]) or INF
  end
  return heads[what]
end

-- What is due by now, in order; a bounded number.
local function due(what, most)
  if head_of(what) > now then
    return {}
  end
  flush(what)
  return redis.call('ZRANGEBYSCORE', key_of(what), '-inf', now, 'LIMIT', 0, most or call.at_once)
end

-- The members of a part, as they were written: it ends in a slash, and the part after it with 0, the next character.
local function of_part(what, part, ...)
  return redis.call('ZRANGEBYLEX', key_of(what), '[' .. part .. '/', '(' .. part .. '0', ...)
end

local function fixed(number)
  return string.format('%016.0f', number)
end

-- Numbers from 0 on are in the order of their bytes.
local function sortable(number)
  return struct.pack('>d', number)
end
