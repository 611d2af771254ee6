-- For gateways. Takes a pending job out, and lets workers have it if they can start it. KEYS: 1 the pool's pending jobs,
-- 2 how many each caller has there, 3 the stream of a colour, or nothing to only take it out. ARGV: 1 the job, 2 for whom
-- it counts if what was kept does not say, 3 how many jobs the colour can hold. Answers the entry's id, OK if it was only
-- taken out, FULL, or GONE.

local pending = redis.call('HGET', KEYS[1], ARGV[1])
if not pending then
  return 'GONE'
end
if KEYS[3] and redis.call('XLEN', KEYS[3]) >= tonumber(ARGV[3]) then
  return 'FULL'
end
redis.call('HDEL', KEYS[1], ARGV[1])
-- A dead letter counts for somebody else than its caller.
local read, known = pcall(cjson.decode, pending)
local counted = read and type(known) == 'table' and known.counted or ARGV[2]
if redis.call('HINCRBY', KEYS[2], counted, -1) <= 0 then
  redis.call('HDEL', KEYS[2], counted)
end
return KEYS[3] and redis.call('XADD', KEYS[3], '*', 'job', ARGV[1]) or 'OK'
