-- For gateways. Gives a job that no worker has started to another colour, whose stream its entry
-- then moves to. ARGV: 3 the colour it leaves, 4 the other one, 5 what to do with a job that a lost
-- worker has started: 1 to end it, 2 to move it. Returns
--   MOVED           it belongs to the other colour, now or by an earlier call
--   RUNNING         a worker has started it
--   DEAD, error, ms it was ended as a dead letter: end the entry, with that error, kept for these ms
--   ENDED           it has ended, or is not there: end the entry

local state, own, epoch, n, dam, async =
  unpack(redis.call('HMGET', hash, 'state', 'colour', 'epoch', 'n', 'dam', 'async'))
if state == 'queued' or (state == 'running' and ARGV[5] == '2') then
  if own ~= ARGV[4] then
    redis.call('HSET', hash, 'colour', ARGV[4])
    redis.call('HDEL', hash, 'refused_ms')
  end
  return { 'MOVED' }
end
if state ~= 'running' then
  return { 'ENDED' }
end
if own ~= ARGV[3] or ARGV[5] ~= '1' then
  return { 'RUNNING' }
end
-- No worker is left of the version that began it, and no other may continue.
local error = 'The worker was lost, and no worker of its version is left.'
redis.call('HSET', hash, 'last_error', error)
note_error(error)
if async == '1' then
  fail('dead', 'upstream_broke', error, epoch, n, dam, async)
  return { 'DEAD', error, (select(2, kept())) }
end
fail('failed', 'upstream_broke', error, epoch, n, dam, async)
return { 'ENDED' }
