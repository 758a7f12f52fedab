-- What is done to levels, and to amounts of all limits; made when it is first needed.

local function level_arithmetic()
  local function less(levels, amounts)
    local left = {}
    for i = 1, n do
      left[i] = math.max(0, levels[i] - amounts[i])
    end
    return left
  end

  local function sum(some, others)
    local both = {}
    for i = 1, n do
      both[i] = (some and some[i] or 0) + others[i]
    end
    return both
  end

  local function most(some, others)
    local higher = {}
    for i = 1, n do
      higher[i] = math.max(some and some[i] or 0, others and others[i] or 0)
    end
    return higher
  end

  local function least(some, others)
    local lower = {}
    for i = 1, n do
      lower[i] = math.min(some[i], others[i])
    end
    return lower
  end

  -- The levels after a column of changes each, one by one.
  local function change_all(levels, changes)
    local after = {}
    for i = 1, n do
      local left, top = levels[i], highest[i]
      for _, change in ipairs(changes[i]) do
        left = left + change
        if left < 0 then
          left = 0
        elseif left > top then
          left = top
        end
      end
      after[i] = left
    end
    return after
  end

  local function totals(changes)
    local all = {}
    for i = 1, n do
      all[i] = 0
      for _, change in ipairs(changes[i]) do
        all[i] = all[i] + change
      end
    end
    return all
  end

  local function any(levels)
    for i = 1, n do
      if levels[i] > 0 then
        return true
      end
    end
    return false
  end

  return less, sum, most, least, change_all, totals, any
end
