-- For gateways. Takes a pending job out, and lets workers have it if they can start it. KEYS: 1 the pool's pending jobs,
-- 2 how many each caller has there, 3 the stream of a colour, or nothing to only take it out. ARGV: 1 the job, 2 its caller,
-- 3 how many jobs the colour can hold. Answers the entry's id, OK if it was only taken out, FULL, or GONE.

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return 'GONE'
end
if KEYS[3] and redis.call('XLEN', KEYS[3]) >= tonumber(ARGV[3]) then
  return 'FULL'
end
redis.call('HDEL', KEYS[1], ARGV[1])
if redis.call('HINCRBY', KEYS[2], ARGV[2], -1) <= 0 then
  redis.call('HDEL', KEYS[2], ARGV[2])
end
return KEYS[3] and redis.call('XADD', KEYS[3], '*', 'job', ARGV[1]) or 'OK'
