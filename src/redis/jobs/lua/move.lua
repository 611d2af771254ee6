-- For gateways. Moves an entry that no worker holds to the stream of another colour. KEYS: 1 the
-- stream, 2 the other one. ARGV: 1 the entry's id, 2 the job, 3 the other colour, 4 the idle time in
-- ms after which a delivered entry counts as abandoned. Returns the new entry's id, or nil.

local found = redis.pcall('XPENDING', KEYS[1], 'workers', ARGV[1], ARGV[1], 1)
local held = not found.err and found[1] -- Without a group nothing was ever delivered.
if held and held[3] < tonumber(ARGV[4]) then
  return false
end
redis.call('XACK', KEYS[1], 'workers', ARGV[1])
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then
  return false
end
return redis.call('XADD', KEYS[2], '*', 'job', ARGV[2], 'colour', ARGV[3])
