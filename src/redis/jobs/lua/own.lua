-- For gateways that run jobs. Takes a pending job for one gateway, which holds the entry at once,
-- so no other can read it. KEYS: 3 the stream of jobs run by gateways. ARGV: 1 the job, 2 the
-- caller it counts for, 3 the gateway. Returns the entry's id, or nil if the job is not pending or
-- its time to start has not come.

local pending = redis.call('HGET', waiting, ARGV[1])
if not pending or not_before(pending) > now() then
  return false
end
take_out(ARGV[1], ARGV[2])
redis.pcall('XGROUP', 'CREATE', KEYS[3], 'workers', 0, 'MKSTREAM') -- fails if it exists
local entry = redis.call('XADD', KEYS[3], '*', 'job', ARGV[1], 'caller', ARGV[2], 'pending', pending)
redis.call('XREADGROUP', 'GROUP', 'workers', ARGV[3], 'STREAMS', KEYS[3], '>')
return entry
