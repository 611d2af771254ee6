-- For gateways, now and then. Forgets consumers of the group that hold no entry and have asked for none for long: each
-- worker, and each gateway that runs jobs, leaves a name behind. One that is there after all has its name again with its
-- next read. KEYS: 1 the stream. ARGV: 1 ms without a word. Answers how many were forgotten.

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
return forgotten
