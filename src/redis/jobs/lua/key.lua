-- For gateways. Sets an `Idempotency-Key` if it is unset or has an expected value. KEYS: 1 the key.
-- ARGV: 1 the new value, empty to delete it, 2 its lifetime in ms, then the expected values.
-- Returns 1, or 0 if another request owns the key.

local there = redis.call('GET', KEYS[1])
local mine = not there
for at = 3, #ARGV do
  mine = mine or there == ARGV[at]
end
if not mine then
  return 0
end
if ARGV[1] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
