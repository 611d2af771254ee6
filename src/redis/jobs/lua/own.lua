-- For gateways that run jobs themselves. Takes a pending job out, for one of them. KEYS: 1 the pool's pending jobs, 2 how many
-- each caller has there, 3 the stream of what gateways run. ARGV: 1 the job, 2 its caller, 3 the gateway. Answers the entry's
-- id, or nothing if the job does not wait any more. The entry is held by the gateway at once, so nobody else can read it.

local pending = redis.call('HGET', KEYS[1], ARGV[1])
if not pending then
  return false
end
redis.call('HDEL', KEYS[1], ARGV[1])
if redis.call('HINCRBY', KEYS[2], ARGV[2], -1) <= 0 then
  redis.call('HDEL', KEYS[2], ARGV[2])
end
redis.pcall('XGROUP', 'CREATE', KEYS[3], 'workers', 0, 'MKSTREAM') -- it fails when there is one
local entry = redis.call('XADD', KEYS[3], '*', 'job', ARGV[1], 'caller', ARGV[2], 'pending', pending)
redis.call('XREADGROUP', 'GROUP', 'workers', ARGV[3], 'STREAMS', KEYS[3], '>')
return entry
