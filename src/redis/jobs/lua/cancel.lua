-- For gateways. Ends a job early. ARGV: 3 the prefix of cancel channels, before the worker, 4 the
-- end state, 5 the reason, 6 a message, 7 the condition: 1 past its deadline, 2 not started, 0
-- none. Returns GONE (no such job), ENDED (already), EARLY (before its deadline), BEGUN (a worker
-- runs it), QUEUED (ended, no worker had it), or RUNNING (ended, its worker was notified).

local state, epoch, n, dam, async, worker, deadline =
  unpack(redis.call('HMGET', hash, 'state', 'epoch', 'n', 'dam', 'async', 'worker', 'deadline_ms'))

if not state then
  return 'GONE'
end
if state ~= 'queued' and state ~= 'running' then
  return 'ENDED'
end
if ARGV[7] == '1' and now() < whole(deadline, 0) then
  return 'EARLY'
end
if ARGV[7] == '2' and state ~= 'queued' then
  return 'BEGUN'
end
redis.call('HSET', hash, 'cancelled', 1)
fail(ARGV[4], ARGV[5], ARGV[6], epoch, n, dam, async)
if state == 'queued' then
  return 'QUEUED'
end
redis.call('PUBLISH', ARGV[3] .. (worker or ''), job .. ' ' .. (epoch or 0))
return 'RUNNING'
