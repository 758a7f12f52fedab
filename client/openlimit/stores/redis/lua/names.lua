-- Names of calls. Those of a run differ in their last three characters only, so what is kept of calls
-- is kept by the stem of their names, with the endings one after the other in one string.

-- The stem of a name, and its ending; that of a short name is filled up.
local function parts_of(name)
  return string.sub(name, 1, -4), string.format('%-3s', string.sub(name, -3))
end

local function whole_name(stem, ending)
  return stem == '' and string.match(ending, '^(.-) *$') or stem .. ending
end

-- Where an ending begins among records of this width, each of which begins with one; nil if nowhere.
local function place_of(records, ending, width)
  local at = string.find(records, ending, 1, true)
  while at and (at - 1) % width > 0 do
    at = string.find(records, ending, at + 1, true)
  end
  return at
end
