-- What is done to levels, and to amounts of all limits; made when it is first needed.

local function level_arithmetic()
  local function by_limit(of, some, others)
    local values = {}
    for i = 1, n do
      values[i] = of(some and some[i] or 0, others and others[i] or 0)
    end
    return values
  end

  local function less(levels, amounts)
    return by_limit(function(one, other) return math.max(0, one - other) end, levels, amounts)
  end

  local function sum(some, others)
    return by_limit(function(one, other) return one + other end, some, others)
  end

  -- The levels after a column of changes each, one by one.
  local function change_all(levels, changes)
    local after = {}
    for i = 1, n do
      local left, top, column_ = levels[i], highest[i], changes[i]
      for k = 1, #column_ do
        left = left + column_[k]
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

  return by_limit, less, sum, change_all, totals, any
end
