-- For gateways. Writes a complete answer over HTTP as that of an ended job, for repeats of its
-- request. ARGV: 3 how many ms it is kept, 4 the caller, 5 `1` if it is a stream, then kind and data of
-- each entry; none if the answer is not to be had again. Returns 1, or 0 if the job exists.

if redis.call('EXISTS', hash) == 1 then
  return 0
end
local keep, at, n = ARGV[3], now(), 0
for index = 6, #ARGV, 2 do
  n = n + 1
  append(1, n, ARGV[index], ARGV[index + 1])
end
redis.call('HSET', hash, 'v', 1, 'state', 'done', 'caller', ARGV[4], 'stream', ARGV[5], 'epoch', 1, 'n', n, 'attempt', 1,
  'keep', 1, 'keep_ms', keep, 'created_ms', at, 'ended_ms', at)
redis.call('PEXPIRE', hash, keep)
redis.call('PEXPIRE', reply, keep)
return 1
