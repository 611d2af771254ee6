-- Charges one cell, KEYS[2], with the first of several amounts that fits. Returns the amount's
-- index from 1, or 0; its mark; and three numbers of the cell's state. -1 alone: as in `charge`.

if redis.call('EXISTS', record) == 1 then
  return { -1 }
end
local options = (#ARGV - 1) / FIELDS
for option = 1, options do
  local f = fields(option)
  local cell = f.kind.load(KEYS[2])
  local fits = f.kind.fits(cell, f)
  local mark = -1
  if fits then
    mark = f.kind.charge(cell, f)
    f.kind.save(cell)
    redis.call('SET', record, 'l' .. struct.pack('<dd', option, mark), 'PX', lives)
  end
  if fits or option == options then
    if cell.shifted and not fits then
      f.kind.save(cell)
    end
    return { fits and option or 0, mark, f.kind.show(cell) }
  end
end
