-- For gateways. Writes a job before anything refers to it. ARGV: 3 its time limit in ms, then
-- fields and values. Returns 1, or 0 if the job exists.

if redis.call('EXISTS', hash) == 1 then
  return 0
end
local within, at = tonumber(ARGV[3]), now()
redis.call('HSET', hash, 'v', 1, 'state', 'queued', 'epoch', 0, 'n', 0, 'sent', 0, 'attempt', 0, 'cancelled', 0,
  'created_ms', at, 'deadline_ms', at + within, unpack(ARGV, 4))
redis.call('PEXPIRE', hash, within + (kept()))
return 1
