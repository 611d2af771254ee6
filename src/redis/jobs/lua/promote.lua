-- For gateways. Removes a pending job, and enqueues it if workers can start it. KEYS: 3 the stream,
-- or none to only remove the job. ARGV: 1 the job, 2 the caller it counts for if not in its record,
-- 3 the most jobs in the stream, 4 the stream's colour. Returns the entry's id, OK if only removed,
-- FULL, EARLY (before its time to start), or GONE.

local pending = redis.call('HGET', waiting, ARGV[1])
if not pending then
  return 'GONE'
end
if KEYS[3] and not_before(pending) > now() then
  return 'EARLY'
end
if KEYS[3] and redis.call('XLEN', KEYS[3]) >= tonumber(ARGV[3]) then
  return 'FULL'
end
-- A former dead letter counts for another caller than its own.
take_out(ARGV[1], known_of(pending).counted or ARGV[2])
return KEYS[3] and redis.call('XADD', KEYS[3], '*', 'job', ARGV[1], 'colour', ARGV[4]) or 'OK'
