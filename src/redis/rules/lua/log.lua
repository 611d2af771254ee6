-- Sliding log: a list. Its first element holds the sum, the last time and the shift; the others
-- hold times and units, oldest first. Fields to charge: 2 the window, 3 the amount, 4 the units
-- that may be in it besides. To correct: 2 the units reserved, 3 those used, 4 the window, 5 the
-- limit, 6 the mark of the charge.

local log = {}
kinds.l = log

local PAGE = 32

function log.load(key)
  local head = redis.call('LINDEX', key, 0)
  local sum, last, shift = 0, 0, 0
  if head then
    sum, last, shift = struct.unpack('<ddd', head)
  end
  -- `over` entries have left the window, and `used` units have not.
  local cell = { key = key, new = not head, sum = sum, over = 0, used = 0 }
  cell.at, cell.shift, cell.shifted = begin(last, shift)
  return cell
end

-- Finds the entries that have left the window. Returns the time until it has at most `room` units.
local function look(cell, length, room)
  cell.length = length
  local index, used, live = 1, cell.sum, false
  while true do
    local page = redis.call('LRANGE', cell.key, index, index + PAGE - 1)
    for _, packed in ipairs(page) do
      local time, units = struct.unpack('<dd', packed)
      if not live and time + length > cell.at then
        live, cell.used = true, used
        if used <= room then
          return 0
        end
      end
      used = used - units
      if not live then
        cell.over = cell.over + 1
      elseif used <= room then
        return time + length - cell.at
      end
    end
    if #page < PAGE then
      return 0
    end
    index = index + PAGE
  end
end

local function entry(cell, index)
  local packed = redis.call('LINDEX', cell.key, index)
  return struct.unpack('<dd', packed)
end

-- Updates the list: creates the head if there is none, removes entries that are over.
local function forget(cell)
  if cell.new then
    redis.call('RPUSH', cell.key, struct.pack('<ddd', 0, 0, 0))
    cell.new = false
  elseif cell.over > 0 then
    redis.call('LTRIM', cell.key, cell.over, -1)
  end
  cell.sum, cell.over = cell.used, 0
  cell.count = redis.call('LLEN', cell.key) - 1
end

function log.fits(cell, f)
  cell.wait = look(cell, f[2], f[4])
  return cell.wait == 0
end

local function add(cell, units)
  cell.sum = math.min(cell.sum + units, MOST)
  cell.used = cell.sum
  if cell.count > 0 then
    local time, held = entry(cell, -1)
    if time >= cell.at then
      redis.call('LSET', cell.key, -1, struct.pack('<dd', time, held + units))
      return time
    end
  end
  redis.call('RPUSH', cell.key, struct.pack('<dd', cell.at, units))
  cell.count = cell.count + 1
  return cell.at
end

function log.charge(cell, f)
  forget(cell)
  return add(cell, f[3])
end

function log.correct(cell, f)
  look(cell, f[4], 0)
  forget(cell)
  local low, high = 1, cell.count + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    local time = entry(cell, middle)
    if time < f[6] then
      low = middle + 1
    else
      high = middle
    end
  end
  local time, units
  if low <= cell.count then
    time, units = entry(cell, low)
  end
  if time == f[6] then
    local corrected = math.max(units - f[2], 0) + f[3]
    cell.sum = math.min(math.max(cell.sum - units, 0) + corrected, MOST)
    if corrected > 0 then
      redis.call('LSET', cell.key, low, struct.pack('<dd', time, corrected))
    else
      redis.call('LSET', cell.key, low, '')
      redis.call('LREM', cell.key, 1, '')
      cell.count = cell.count - 1
    end
  elseif f[3] > f[2] then
    if cell.count >= f[5] then
      local newest, held = entry(cell, -1)
      redis.call('LSET', cell.key, -1, struct.pack('<dd', math.max(newest, cell.at), held))
    end
    add(cell, f[3] - f[2])
  end
end

function log.save(cell)
  if not cell.count then
    forget(cell)
  end
  if cell.count == 0 then
    redis.call('DEL', cell.key)
    return
  end
  redis.call('LSET', cell.key, 0, struct.pack('<ddd', cell.sum, cell.at, cell.shift))
  local newest = entry(cell, -1)
  redis.call('PEXPIRE', cell.key, millis(cell.at, newest + cell.length))
end

-- Returns the units in the window, the time until all have left, and until the amount fits.
function log.show(cell)
  local left = 0
  if cell.used > 0 then
    local newest = entry(cell, -1)
    left = math.max(newest + cell.length - cell.at, 0)
  end
  return cell.used, left, cell.wait
end
