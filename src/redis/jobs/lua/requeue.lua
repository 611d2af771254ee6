-- For gateways. Requeues a dead letter; it is not pending yet. ARGV: 3 its time limit in ms, 4 how
-- many ms no other gateway may requeue it. Returns its caller, path, body, 1 if streamed, and the
-- value by which `bury` reverts this; an empty list if another gateway is requeueing it or it is
-- pending; nil if there is no such job or it is no dead letter.

local state, caller, path, body, stream, requeued =
  unpack(redis.call('HMGET', hash, 'state', 'caller', 'path', 'body', 'stream', 'requeued_ms'))
-- Set while the job is pending or about to be; `attach` clears it before the job is enqueued.
local underway = state == 'queued' and (requeued or '') ~= ''
if not body or (state ~= 'dead' and not underway) then
  return false
end
local within, at = tonumber(ARGV[3]), now()
if underway and at < whole(requeued, 0) + ARGV[4] then
  return {}
end
redis.call('HSET', hash, 'state', 'queued', 'async', 1, 'attempt', 0, 'cancelled', 0, 'deadline_ms', at + within,
  'requeued_ms', at, 'colour', '')
redis.call('HDEL', hash, 'ended_ms', 'entry', 'refused_ms')
redis.call('PEXPIRE', hash, within + (kept()))
redis.call('DEL', reply)
return { caller or '', path or '', body, stream or '0', tostring(at) }
