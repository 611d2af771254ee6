-- For gateways, each second. KEYS: 1 the stream. ARGV: 1 the idle time in ms. Returns the names in
-- the group that have read, claimed or renewed since, or that hold an entry and did so in ten times
-- that time: the processes that take its jobs. Before version 7.2, Redis does not count a read that
-- finds nothing.

local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], 'workers')
local names = {}
if consumers.err then
  return names -- There is no such stream or group.
end
for _, listed in ipairs(consumers) do
  local of = {}
  for at = 1, #listed, 2 do
    of[listed[at]] = listed[at + 1]
  end
  local time = ARGV[1] * (of.pending > 0 and 10 or 1)
  if of.idle < time then
    names[#names + 1] = of.name
  end
end
return names
