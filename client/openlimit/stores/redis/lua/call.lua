-- A call of the script: what it is given, and the clock by which it is decided. It goes on in the
-- other files, see __init__.py; together they do what bucket.py and memory.py do, for any number of
-- operations a call.
--
-- KEYS[1]  the bucket, a hash:
--            at            the latest start handed out
--            paused        until when nothing new starts
--            level:<name>  how full the bucket of each limit is then, in units
--            limited_by    the unit that set that start; empty for none
--            units         the limits' names, in their order
--            seq, first    the numbers of the latest and of the oldest reservation that is kept
--            started       when and how full the bucket was with what had started and is not kept,
--                          and as much of that as was observed
--            void          the number before which none can be cancelled any more
--            p:<number>    such a reservation: a start to come, and the bucket as it was before
--            n:<name>      the number of the reservation of that name, which is lot-number
--            seen, shift   the time of the latest decision, and by how much the clock was behind
-- KEYS[2…] lots: which of their reservations were settled or cancelled, see marks.lua; and
--          requests: what was granted to them, see repeat.lua
-- ARGV[1]  JSON:
--            clock         microseconds, for tests; null for Redis's own, by which keys expire
--            limits        [name, unit, amount, capacity, rate, most] each
--            operations    see decide.lua
--            requests      [key, kept] each: which of the KEYS remembers it, for how long from now;
--                          if that is negative, for so long from the start
--            lots          how the keys of this bucket's lots begin
--            settled_within, marked   microseconds from the start, as in protocol.py
--            secret        instead of all others: KEYS[1] is it from now on, unless there is one
-- ARGV[2]  the operations' columns of numbers, as doubles
-- Returns  the time, and then the answers to the operations, see decide.lua.
--
-- Times are whole microseconds, which doubles hold exactly for some 280 years. Levels are written
-- with 17 digits, from which a double is read back as it was. Every step is one of bucket.py, in the
-- same order: a test compares all decisions of the two.

local NO, YES, EXCEEDS_LIMIT, WAIT_TOO_LONG, REPEAT, NOT_STARTED = 0, 1, 2, 3, 4, 5
local CANCELLED, TOO_LATE = 6, 7
local SLACK = 1e-3
local MOST_ARGUMENTS = 4000  -- of one command or function: Lua's stack is bounded
local MOST_SWEPT = 2000

local key, call = KEYS[1], cjson.decode(ARGV[1])

if call.secret then
  redis.call('SET', key, call.secret, 'NX')
  return {redis.call('GET', key)}
end

local function exact(number)
  return string.format('%.17g', number)
end

-- All numbers of the columns, and where those of the next operation begin.
local column, taken = {}, 0
for from = 1, #ARGV[2], 8 * MOST_ARGUMENTS do
  local count = math.min((#ARGV[2] - from + 1) / 8, MOST_ARGUMENTS)
  local part = {struct.unpack('<' .. string.rep('d', count), ARGV[2], from)}
  part[count + 1] = nil  -- where it has ended
  if from == 1 then
    column = part
  else
    for _, number in ipairs(part) do
      column[#column + 1] = number
    end
  end
end

-- The next so many of them.
local function take_column(count)
  local from = taken + 1
  taken = taken + count
  if count <= MOST_ARGUMENTS then
    return {unpack(column, from, taken)}
  end
  local values = {}
  for i = 1, count do
    values[i] = column[from + i - 1]
  end
  return values
end

-- One after the other, since Redis takes microseconds for a table inside another.
local answers, answered = {}, 0
local function answer(value)
  answered = answered + 1
  answers[answered] = value
end

local own_clock = call.clock == cjson.null
local clock = call.clock
if own_clock then
  local time = redis.call('TIME')
  clock = time[1] * 1000000 + time[2]
end
-- When the latest decision was, and by how much the clock was behind, as far as it is known so far.
local seen, shift = -math.huge, 0
