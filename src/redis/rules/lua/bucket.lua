-- Token bucket. Times are pairs: microseconds, and ticks of 1/16 ns within one, which doubles hold
-- exactly. The caller computes products of the quota, so nothing is rounded here. Fields to charge:
-- 2, 3 the time it costs; 4, 5 how far ahead of now the bucket may be. To correct: 2 the units
-- reserved, 3 those used (only compared); 4, 5 the difference as time.

local TICKS = 16000
local bucket = {}
kinds.b = bucket

function bucket.load(key)
  local raw = redis.call('GET', key)
  local us, part, last, shift = 0, 0, 0, 0
  if raw and #raw == 32 then
    us, part, last, shift = struct.unpack('<dddd', raw)
  end
  local cell = { key = key, us = us, part = part }
  cell.at, cell.shift, cell.shifted = begin(last, shift)
  return cell
end

local function from_now(cell)
  if cell.us < cell.at then
    cell.us, cell.part = cell.at, 0
  end
end

local function later(cell, us, part)
  us, part = cell.us + us, cell.part + part
  if part >= TICKS then
    us, part = us + 1, part - TICKS
  end
  cell.us, cell.part = math.min(us, MOST), part
end

function bucket.fits(cell, f)
  from_now(cell)
  local ahead = cell.us - cell.at
  return ahead < f[4] or (ahead == f[4] and cell.part <= f[5])
end

function bucket.charge(cell, f)
  later(cell, f[2], f[3])
  return 0
end

function bucket.correct(cell, f)
  if f[3] > f[2] then
    from_now(cell)
    later(cell, f[4], f[5])
    return
  end
  cell.us, cell.part = cell.us - f[4], cell.part - f[5]
  if cell.part < 0 then
    cell.us, cell.part = cell.us - 1, cell.part + TICKS
  end
end

function bucket.save(cell)
  local value = struct.pack('<dddd', cell.us, cell.part, cell.at, cell.shift)
  keep(cell.key, cell.at, cell.part > 0 and cell.us + 1 or cell.us, value)
end

-- Returns how far ahead of now the bucket is.
function bucket.show(cell)
  from_now(cell)
  return cell.us - cell.at, cell.part, 0
end
