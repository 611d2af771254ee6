-- For gateways that run jobs, each interval. Makes jobs that were not renewed pending again. KEYS:
-- as of `own`. ARGV: 1 the gateway, 2 the idle time in ms, 3 the most at once. Returns the count.

if redis.call('EXISTS', KEYS[3]) == 0 then
  return 0
end
local idle = redis.call('XPENDING', KEYS[3], 'workers', 'IDLE', ARGV[2], '-', '+', ARGV[3])
for _, left in ipairs(idle) do
  local id = left[1]
  local entry = redis.call('XCLAIM', KEYS[3], 'workers', ARGV[1], ARGV[2], id)[1]
  if entry then
    local fields = {}
    for at = 1, #entry[2], 2 do
      fields[entry[2][at]] = entry[2][at + 1]
    end
    -- One that gateways did not write is only removed.
    if fields.job and fields.caller and fields.pending then
      keep(fields.job, fields.caller, fields.pending)
    end
    redis.call('XACK', KEYS[3], 'workers', id)
    redis.call('XDEL', KEYS[3], id)
  end
end
return #idle
