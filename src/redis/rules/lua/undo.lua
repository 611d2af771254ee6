-- Undoes a charge or a lease with an unknown outcome, before or after it runs. Fields: for each
-- cell, or each amount of a lease, its correction to zero. Returns 1 if anything was undone.

local before = redis.call('GET', record)
redis.call('SET', record, 'u', 'PX', lives)

local function take_back(index, key, mark)
  if mark >= 0 then
    local f = fields(index)
    f[6] = mark
    local cell = f.kind.load(key)
    f.kind.correct(cell, f)
    f.kind.save(cell)
  end
end

local what = before and string.sub(before, 1, 1)
if what == 'l' then
  local option, mark = struct.unpack('<dd', before, 2)
  take_back(option, KEYS[2], mark)
elseif what == 'c' then
  for index = 1, #KEYS - 1 do
    local mark = struct.unpack('<d', before, 2 + (index - 1) * 8)
    take_back(index, KEYS[index + 1], mark)
  end
else
  return 0
end
return 1
