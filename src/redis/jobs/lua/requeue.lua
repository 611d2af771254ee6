-- For gateways. Gives a dead letter another chance. ARGV: 3 its time in ms. Answers its caller, path, body, and 1 if a stream;
-- or nothing, when there is no such job any more, or it is alive.

local state, caller, path, body, stream = unpack(redis.call('HMGET', hash, 'state', 'caller', 'path', 'body', 'stream'))
if not body or (state ~= 'dead' and state ~= 'queued') then
  return false
end
local within = tonumber(ARGV[3])
redis.call('HSET', hash, 'state', 'queued', 'async', 1, 'attempt', 0, 'cancelled', 0, 'deadline_ms', now() + within)
redis.call('HDEL', hash, 'ended_ms', 'entry')
redis.call('PEXPIRE', hash, within + KEEP)
redis.call('DEL', reply)
return { caller or '', path or '', body, stream or '0' }
