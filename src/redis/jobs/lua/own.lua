-- For gateways that run jobs themselves. Takes a pending job out, for one of them. KEYS: 3 the stream of what gateways run.
-- ARGV: 1 the job, 2 for whom it counts, 3 the gateway. Answers the entry's id, or nothing if the job does not wait any more.
-- The entry is held by the gateway at once, so nobody else can read it.

local pending = redis.call('HGET', waiting, ARGV[1])
if not pending then
  return false
end
take_out(ARGV[1], ARGV[2])
redis.pcall('XGROUP', 'CREATE', KEYS[3], 'workers', 0, 'MKSTREAM') -- it fails when there is one
local entry = redis.call('XADD', KEYS[3], '*', 'job', ARGV[1], 'caller', ARGV[2], 'pending', pending)
redis.call('XREADGROUP', 'GROUP', 'workers', ARGV[3], 'STREAMS', KEYS[3], '>')
return entry
