-- The marks of lots. A lot is a string with a bit for each of its reservations, whether it is closed;
-- and so much further on another, whether it was cancelled.

local lots = {}  -- until when what was marked in them is to be remembered, by key
local read_lots = {}  -- what was read of lots and not changed since, by key

local BLOCK = 4096
local function bit_of(number)
  return number + BLOCK * math.floor(number / BLOCK)
end

-- Made when it is first needed.
local function marking()
  -- The part of a lot's marks that has these numbers, as words of 32 bits, and its first word.
  local function read_words(lot_key, which)
    local low, high = math.huge, 0
    for _, number in ipairs(which) do
      local word = math.floor(bit_of(number) / 32)
      low, high = math.min(low, word), math.max(high, word)
    end
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
    for k, number in ipairs(which) do
      local place = bit_of(number)
      local word = math.floor(place / 32) - low + 1
      local mask, start = 2 ^ (31 - place % 32), starts[k]
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
