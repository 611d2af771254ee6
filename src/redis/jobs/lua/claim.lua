-- For workers, each interval. Claims entries that were not renewed, wherever they are among renewed
-- ones. KEYS: 1 the stream. ARGV: 1 the worker, 2 the idle time in ms, 3 the most at once. Returns
-- a flat list: for each entry its id, its job and its delivery count.

local claimed = {}
for _, left in ipairs(redis.call('XPENDING', KEYS[1], 'workers', 'IDLE', ARGV[2], '-', '+', ARGV[3])) do
  local entry = redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], ARGV[2], left[1])[1]
  if entry then
    claimed[#claimed + 1] = entry[1]
    claimed[#claimed + 1] = entry[2][2]
    claimed[#claimed + 1] = left[4] + 1
  end
end
return claimed
