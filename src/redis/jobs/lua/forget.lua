-- For gateways, periodically. Removes idle consumers that hold no entry: each worker, and each
-- gateway that runs jobs, leaves a name behind. Redis recreates the consumer with its next read. An
-- empty stream that nobody reads is deleted: each version leaves one behind. A worker that comes
-- back creates it again. KEYS: 1 the stream. ARGV: 1 the idle time in ms. Returns the number of
-- removed consumers.

local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], 'workers')
if consumers.err then
  return 0 -- There is no such stream or group.
end
local forgotten = 0
for _, listed in ipairs(consumers) do
  local of = {}
  for at = 1, #listed, 2 do
    of[listed[at]] = listed[at + 1]
  end
  if of.pending == 0 and of.idle >= tonumber(ARGV[1]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'workers', of.name)
    forgotten = forgotten + 1
  end
end
if forgotten > 0 and forgotten == #consumers and redis.call('XLEN', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[1])
end
return forgotten
