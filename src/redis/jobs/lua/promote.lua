-- For gateways. Takes a pending job out, and lets workers have it if they can start it. KEYS: 3 the stream of a colour, or
-- nothing to only take it out. ARGV: 1 the job, 2 for whom it counts if what was kept does not say, 3 how many jobs the
-- colour can hold. Answers the entry's id, OK if it was only taken out, FULL, or GONE.

local pending = redis.call('HGET', waiting, ARGV[1])
if not pending then
  return 'GONE'
end
if KEYS[3] and redis.call('XLEN', KEYS[3]) >= tonumber(ARGV[3]) then
  return 'FULL'
end
-- A dead letter counts for somebody else than its caller.
take_out(ARGV[1], known_of(pending).counted or ARGV[2])
return KEYS[3] and redis.call('XADD', KEYS[3], '*', 'job', ARGV[1]) or 'OK'
