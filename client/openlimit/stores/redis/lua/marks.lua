-- The marks of lots. A lot is a string with a bit for each of its reservations, whether it is closed;
-- and so much further on another, whether it was cancelled.

local lots = {}  -- until when what was marked in them is to be remembered, by key
local read_lots = {}  -- what was read of lots and not changed since, by key

local BLOCK = 4096
local function bit_of(number)
  return number + BLOCK * math.floor(number / BLOCK)
end

local function is_marked(lot, number, further)
  -- This key cannot be told beforehand: only what is remembered says in which lot it was granted.
  -- So it may be missing on a node of a cluster that its slot is leaving, which is an error.
  local lot_key = call.lots .. lot
  local marks = read_lots[lot_key] or redis.pcall('GET', lot_key)
  marks = type(marks) == 'string' and marks or ''
  read_lots[lot_key] = marks
  local place = bit_of(number) + further
  local byte = string.byte(marks, math.floor(place / 8) + 1) or 0
  return bit.band(byte, 2 ^ (7 - place % 8)) ~= 0
end

local function is_closed(lot, number)
  return is_marked(lot, number, 0)
end

local function is_cancelled(lot, number)
  return is_marked(lot, number, BLOCK)
end

-- Made when it is first needed.
local function marking()
  local MASKS = {}
  for i = 0, 31 do
    MASKS[i] = 2 ^ (31 - i)
  end

  -- The part of a lot's marks that has these numbers, as words of 32 bits, and its first word.
  local function read_words(lot_key, which)
    local least, most = which[1], which[1]
    for k = 1, #which do
      local number = which[k]
      if number < least then
        least = number
      elseif number > most then
        most = number
      end
    end
    local low, high = math.floor(bit_of(least) / 32), math.floor(bit_of(most) / 32)
    local count = high - low + 1
    local marks = redis.call('GETRANGE', lot_key, 4 * low, 4 * high + 3)
    marks = marks .. string.rep('\0', 4 * count - #marks)
    local words = {struct.unpack('>' .. string.rep('I4', count), marks)}
    words[count + 1] = nil
    return words, low
  end

  local function remember_until(lot_key, start)
    lots[lot_key] = math.max(lots[lot_key] or 0, start + call.marked)
    read_lots[lot_key] = nil
  end

  -- What of a column may not be settled, by position; the rest is marked as settled.
  local function mark(lot_key, which, starts, waiting)
    local others, latest = {}, -math.huge
    local words, low = read_words(lot_key, which)
    local too_old = now - call.settled_within
    for k = 1, #which do
      local number = which[k]
      local place = number < BLOCK and number or bit_of(number)
      local within = place % 32
      local word, mask, start = (place - within) / 32 - low + 1, MASKS[within], starts[k]
      if start <= too_old then
        others[k] = TOO_LATE
      elseif words[word] % (2 * mask) >= mask then
        others[k] = NO
      elseif waiting[k] then
        others[k] = waiting[k]
      else
        words[word] = words[word] + mask
        if start > latest then
          latest = start
        end
      end
    end
    if latest > -math.huge then
      local packed = struct.pack('>' .. string.rep('I4', #words), unpack(words))
      redis.call('SETRANGE', lot_key, 4 * low, packed)
      remember_until(lot_key, latest)
    end
    return others
  end

  local function mark_cancelled(lot_key, number, start)
    redis.call('SETBIT', lot_key, bit_of(number), 1)
    redis.call('SETBIT', lot_key, bit_of(number) + BLOCK, 1)
    remember_until(lot_key, start)
  end

  return mark, mark_cancelled
end
