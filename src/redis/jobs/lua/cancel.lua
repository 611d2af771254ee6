-- For gateways. Ends a job that nobody waits for any more. ARGV: 3 the channel of cancels without the worker, 4 the state
-- that it ends in, 5 the reason, 6 a message, 7 whether only if its time is over (1) or nobody runs it (2). Answers GONE (no
-- such job), ENDED (it had), EARLY (it has time), BEGUN (somebody runs it), QUEUED (nobody ran it), or RUNNING (its worker
-- was told).

local state, epoch, n, dam, async, worker, deadline =
  unpack(redis.call('HMGET', hash, 'state', 'epoch', 'n', 'dam', 'async', 'worker', 'deadline_ms'))

if not state then
  return 'GONE'
end
if state ~= 'queued' and state ~= 'running' then
  return 'ENDED'
end
if ARGV[7] == '1' and now() < tonumber(deadline) then
  return 'EARLY'
end
if ARGV[7] == '2' and state ~= 'queued' then
  return 'BEGUN'
end
redis.call('HSET', hash, 'cancelled', 1)
fail(ARGV[4], ARGV[5], ARGV[6], epoch, n + 1, dam, async)
if state == 'queued' then
  return 'QUEUED'
end
redis.call('PUBLISH', ARGV[3] .. worker, job .. ' ' .. epoch)
return 'RUNNING'
