-- For gateways. Gives a dead letter another chance; it does not wait for its turn yet. ARGV: 3 its time in ms, 4 for how
-- many ms nobody else may do the same. Answers its caller, path, body, 1 if a stream, and by what it can be taken back
-- (`bury`); an empty list when another gateway is at it, or it waits; nothing when there is no such job any more, or it is
-- alive.

local state, caller, path, body, stream, requeued =
  unpack(redis.call('HMGET', hash, 'state', 'caller', 'path', 'body', 'stream', 'requeued_ms'))
-- With the field, it is on its way to where jobs wait, or there. Who brings it to the workers empties it first.
local underway = state == 'queued' and (requeued or '') ~= ''
if not body or (state ~= 'dead' and not underway) then
  return false
end
local within, at = tonumber(ARGV[3]), now()
if underway and at < requeued + ARGV[4] then
  return {}
end
redis.call('HSET', hash, 'state', 'queued', 'async', 1, 'attempt', 0, 'cancelled', 0, 'deadline_ms', at + within,
  'requeued_ms', at)
redis.call('HDEL', hash, 'ended_ms', 'entry')
redis.call('PEXPIRE', hash, within + KEEP)
redis.call('DEL', reply)
return { caller or '', path or '', body, stream or '0', tostring(at) }
