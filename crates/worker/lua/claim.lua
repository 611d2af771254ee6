-- For workers, each interval. Claims entries that were not renewed, wherever they are among renewed
-- ones. KEYS: 1 the stream. ARGV: 1 the worker, 2 the idle time in ms, 3 the most at once, 4 the
-- worker's colour: entries of another one stay. Returns a flat list: for each entry its id, its job
-- and its delivery count.

local colour, claimed = ARGV[4], {}

-- Returns true if the entry was written for this colour. Older gateways do not name one.
local function is_ours(id)
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  local fields = entry and entry[2] or {}
  for at = 1, #fields, 2 do
    if fields[at] == 'colour' then
      return fields[at + 1] == colour
    end
  end
  return true
end

for _, left in ipairs(redis.call('XPENDING', KEYS[1], 'workers', 'IDLE', ARGV[2], '-', '+', ARGV[3])) do
  local entry = (not colour or is_ours(left[1])) and redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], ARGV[2], left[1])[1]
  if entry then
    claimed[#claimed + 1] = entry[1]
    claimed[#claimed + 1] = entry[2][2]
    claimed[#claimed + 1] = left[4] + 1
  end
end
return claimed
