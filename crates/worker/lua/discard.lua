-- For workers. Makes a job that can never run a dead letter, whatever its record holds. ARGV: 3 the
-- error, 4 `1` if a job that has started ends too. Returns how many ms it is kept; nil if there is no
-- such job, or it goes on, or has ended.

if redis.call('TYPE', hash).ok ~= 'hash' then
  return false
end
local state, epoch, n, dam, async = unpack(redis.call('HMGET', hash, 'state', 'epoch', 'n', 'dam', 'async'))
if state ~= 'queued' and (state ~= 'running' or ARGV[4] ~= '1') then
  return false
end
redis.call('HSET', hash, 'last_error', ARGV[3])
-- The reply may be as ill-formed as the record; its client then gets an error from the gateway.
if not pcall(fail, 'dead', 'upstream_broke', ARGV[3], epoch, n, dam, async) then
  finish('dead', async)
end
return (select(2, kept()))
