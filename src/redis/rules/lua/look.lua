-- Returns for each cell whether the amount fits, and three numbers of its state. Changes nothing.

local answer = {}
for index = 1, #KEYS - 1 do
  local f = fields(index)
  local cell = f.kind.load(KEYS[index + 1])
  local fits = f.kind.fits(cell, f)
  local last = #answer
  answer[last + 1] = fits and 1 or 0
  answer[last + 2], answer[last + 3], answer[last + 4] = f.kind.show(cell)
end
return answer
