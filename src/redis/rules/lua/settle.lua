-- Corrects charges, once: repeats do nothing. Returns 1 if this call did it.

if not redis.call('SET', record, 's', 'NX', 'PX', lives) then
  return 0
end
for index = 1, #KEYS - 1 do
  local f = fields(index)
  local cell = f.kind.load(KEYS[index + 1])
  f.kind.correct(cell, f)
  f.kind.save(cell)
end
return 1
