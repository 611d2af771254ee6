-- Sliding window: two buckets. Fields to charge: 2 the window, 3 the amount, 4 the units that may
-- be in it besides. To correct: 2 the units reserved, 3 those used, 4 the window, 6 the mark.

local window = {}
kinds.w = window

-- a * b for whole numbers below 2^52, as high * 2^52 + low.
local HALF = 2 ^ 26
local function product(a, b)
  local a1, a0 = math.floor(a / HALF), a % HALF
  local b1, b0 = math.floor(b / HALF), b % HALF
  local middle = a1 * b0 + a0 * b1
  local low = a0 * b0 + (middle % HALF) * HALF
  return a1 * b1 + math.floor(middle / HALF) + math.floor(low / MOST), low % MOST
end

-- Returns true if a * b <= c * d, exactly.
local function at_most(a, b, c, d)
  local ab, cd = a * b, c * d
  if ab < MOST and cd < MOST then
    return ab <= cd
  end
  local high1, low1 = product(a, b)
  local high2, low2 = product(c, d)
  return high1 < high2 or (high1 == high2 and low1 <= low2)
end

function window.load(key)
  local raw = redis.call('GET', key)
  local start, prev, cur, last, shift = 0, 0, 0, 0, 0
  if raw and #raw == 40 then
    start, prev, cur, last, shift = struct.unpack('<ddddd', raw)
  end
  local cell = { key = key, start = start, prev = prev, cur = cur }
  cell.at, cell.shift, cell.shifted = begin(last, shift)
  return cell
end

local function roll(cell, length)
  local age = cell.at - cell.start
  if age >= length then
    cell.prev = age < 2 * length and cell.cur or 0
    cell.cur = 0
    cell.start = cell.at - cell.at % length
  end
  cell.length = length
end

function window.fits(cell, f)
  roll(cell, f[2])
  local room = f[4] - cell.cur
  return room >= 0 and at_most(cell.prev, f[2] - (cell.at - cell.start), room, f[2])
end

function window.charge(cell, f)
  cell.cur = cell.cur + f[3]
  return cell.start
end

function window.correct(cell, f)
  roll(cell, f[4])
  local function corrected(units)
    return math.min(math.max(units - f[2], 0) + f[3], MOST)
  end
  if f[6] == cell.start then
    cell.cur = corrected(cell.cur)
  elseif f[6] + f[4] == cell.start then
    cell.prev = corrected(cell.prev)
  else
    cell.cur = math.min(cell.cur + math.max(f[3] - f[2], 0), MOST)
  end
end

function window.save(cell)
  local lasts = (cell.cur > 0 and 2) or (cell.prev > 0 and 1) or 0
  local value = struct.pack('<ddddd', cell.start, cell.prev, cell.cur, cell.at, cell.shift)
  keep(cell.key, cell.at, lasts > 0 and cell.start + lasts * cell.length or 0, value)
end

function window.show(cell)
  return cell.prev, cell.cur, cell.at - cell.start
end
