-- For gateways. Has an `Idempotency-Key` stand for a job. KEYS: 1 the key. ARGV: 1 what it is to hold, empty to forget it,
-- 2 for how many ms, then what may be there besides nothing. Answers 1, or 0 if another request has it.

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
