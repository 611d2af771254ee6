-- For workers, each interval. Claims entries of workers that were not heard, wherever they stand among those that were.
-- KEYS: 1 the stream. ARGV: 1 the worker, 2 ms without a renewal, 3 the most at once. Answers of each entry its id, its job,
-- and how often it was given out, one after the other.

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
