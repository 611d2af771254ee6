-- Charges all cells or none. Field 1: 1 if the cell's rule is enforced. A rule that only observes
-- is charged if it fits, and never refuses. Returns 1 if all were charged, else 0; then for each
-- cell whether it fits, its mark (-1: not charged), and three numbers of its state. Returns only -1
-- if the gateway has given up and undone the charge before it ran.

if redis.call('EXISTS', record) == 1 then
  return { -1 }
end
local cells, admitted = {}, true
for index = 1, #KEYS - 1 do
  local f = fields(index)
  local cell = f.kind.load(KEYS[index + 1])
  local fits = f.kind.fits(cell, f)
  cells[index] = { f = f, cell = cell, fits = fits }
  admitted = admitted and (fits or f[1] == 0)
end
local answer, marks = { admitted and 1 or 0 }, { 'c' }
for index, asked in ipairs(cells) do
  local kind, cell, mark = asked.f.kind, asked.cell, -1
  if admitted and asked.fits then
    mark = kind.charge(cell, asked.f)
    kind.save(cell)
  elseif cell.shifted then
    kind.save(cell)
  end
  marks[index + 1] = struct.pack('<d', mark)
  local last = #answer
  answer[last + 1], answer[last + 2] = asked.fits and 1 or 0, mark
  answer[last + 3], answer[last + 4], answer[last + 5] = kind.show(cell)
end
if admitted then
  redis.call('SET', record, table.concat(marks), 'PX', lives)
end
return answer
