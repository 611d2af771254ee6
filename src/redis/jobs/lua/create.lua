-- For gateways. Writes a job down, before anything points to it. ARGV: 3 its time in ms, then fields and values. Answers 0
-- if there is such a job.

if redis.call('EXISTS', hash) == 1 then
  return 0
end
local within, at = tonumber(ARGV[3]), now()
redis.call('HSET', hash, 'v', 1, 'state', 'queued', 'epoch', 0, 'n', 0, 'sent', 0, 'attempt', 0, 'cancelled', 0,
  'created_ms', at, 'deadline_ms', at + within, unpack(ARGV, 4))
redis.call('PEXPIRE', hash, within + KEEP)
return 1
