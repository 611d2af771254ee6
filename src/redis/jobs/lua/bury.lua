-- For gateways. Makes a requeued job a dead letter again because there is no room for it. ARGV: 3
-- the value returned by `requeue`. Returns 1, or 0 if the job has moved on.

local state, requeued, epoch, n, dam, async, most, last_error = unpack(redis.call('HMGET', hash, 'state', 'requeued_ms',
  'epoch', 'n', 'dam', 'async', 'max_attempts', 'last_error'))
if state ~= 'queued' or requeued ~= ARGV[3] then
  return 0
end
redis.call('HDEL', hash, 'requeued_ms')
redis.call('HSET', hash, 'attempt', whole(most, 3))
fail('dead', 'upstream_broke', last_error or 'The worker was lost.', epoch, n, dam, async)
return 1
