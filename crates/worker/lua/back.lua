-- For workers. Hands an entry back, so that the next claim gets it at once. KEYS: 1 the stream.
-- ARGV: 1 the worker, 2 the entry's id. Returns 1 if the worker held it, else 0.

local held = redis.call('XPENDING', KEYS[1], 'workers', ARGV[2], ARGV[2], 1)[1]
if not held or held[2] ~= ARGV[1] then
  return 0
end
redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], 0, ARGV[2], 'IDLE', 3600000, 'JUSTID')
return 1
