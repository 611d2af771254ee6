-- For gateways. Keeps an asynchronous job until there is room for it. KEYS: 1 the pool's pending jobs, 2 how many each
-- caller has there. ARGV: 1 the job, 2 for whom it counts, 3 how many there may be, 4 how many of one caller, 5 what a
-- gateway needs to know of it. Answers OK, FULL, or MANY (of this caller).

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  return 'OK'
end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then
  return 'FULL'
end
if tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or '0') >= tonumber(ARGV[4]) then
  return 'MANY'
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[5])
redis.call('HINCRBY', KEYS[2], ARGV[2], 1)
return 'OK'
