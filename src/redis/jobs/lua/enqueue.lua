-- For gateways. Enqueues a job if workers can start it. KEYS: 1 the stream of the pool's colour.
-- ARGV: 1 the most jobs in the stream, 2 the job, 3 the colour. Returns the entry's id, or nil.

if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then
  return false
end
return redis.call('XADD', KEYS[1], '*', 'job', ARGV[2], 'colour', ARGV[3])
