-- Shared by all verbs: arguments, time, exact arithmetic.
--
-- KEYS[1] is the record of the operation, all other keys are cells; all have one hash tag. ARGV[1]
-- is the lifetime of the record in ms. FIELDS arguments for each cell follow, the first its kind.
--
-- Time is in whole microseconds of the server. A cell stores the last time it saw and a shift, and
-- uses time + shift, which never decreases: if the server's clock is set back, debt stays the same.
-- A refusal stores a new shift too; else time would stand still until the clock catches up.

local FIELDS = 7
-- Integers below it are added and halved exactly; larger values are capped to it.
local MOST = 2 ^ 52
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local record, lives = KEYS[1], ARGV[1]
local kinds = {}

-- Returns the cell's time, its shift, and true if the shift is new.
local function begin(last, shift)
  local at = now + shift
  if at < last then
    return last, last - now, true
  end
  return at, shift, false
end

-- Milliseconds from `at` to `later`, plus one: a cell may live too long, never too short.
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
