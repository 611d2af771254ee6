-- What all verbs share: arguments, time, exact arithmetic.
--
-- KEYS[1] is the record of the operation, all other keys are cells; all carry one hash tag. ARGV[1] is how long the
-- record lives, in ms; then follow FIELDS arguments for each cell, the first its kind.
--
-- Time is whole microseconds of the server. A cell keeps the last time it saw and a shift, and lives by time + shift,
-- which never goes back: when the server's clock does, debt stays what it was. A cell keeps a new shift also when it
-- refuses; else its time would stand still until the server's clock is where it was.

local FIELDS = 7
-- Whole numbers below it can be added and halved exactly; what would grow beyond it stays there.
local MOST = 2 ^ 52
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local record, lives = KEYS[1], ARGV[1]
local kinds = {}

-- The cell's time, its shift, and whether that is new.
local function begin(last, shift)
  local at = now + shift
  if at < last then
    return last, last - now, true
  end
  return at, shift, false
end

-- Milliseconds from `at` to `later`, and one more: a cell may live too long, never too short.
local function millis(at, later)
  return string.format('%.0f', math.ceil((later - at) / 1000) + 1)
end

local function keep(key, at, later, value)
  if later > at then
    redis.call('SET', key, value, 'PX', millis(at, later))
  else
    redis.call('DEL', key)
  end
end

local function fields(index)
  local from = 1 + (index - 1) * FIELDS
  local f = { kind = kinds[ARGV[from + 1]] }
  for field = 1, FIELDS - 1 do
    f[field] = tonumber(ARGV[from + 1 + field])
  end
  return f
end
