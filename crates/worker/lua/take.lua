-- For workers. Starts a run of a job whose entry was read or claimed. ARGV: 3 the worker, 4 the
-- colour of the stream, 5 the entry's id, 6 the delivery count: 1 after a read, else from `claim`, 7 the
-- stream. Without it a job of another colour never ends here.
-- Returns
--   RUN, epoch, attempt, ms until the deadline, path, headers, body, signature, 1 if the worker must
--                   sign the reply or else nothing, ms that the entry has waited
--   GONE            the job has ended: end the entry
--   DEAD, error, ms no attempts are left: end the entry as a dead letter, with that error, which is
--                   kept for these ms
--   LEAVE           another worker has claimed and started it: do not touch the entry
--   OTHER, colour   the job belongs to another colour: hand the entry back
-- A job that can never run is DEAD too.

local worker, colour, entry, given, stream = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local REFUSED = 10000 -- ms that a misplaced entry is handed back

-- Returns true if this delivery is older than the one of the last run: a worker that was suspended
-- must not end another's run. A later entry, of a requeued job, is newer whatever its count.
local function is_old()
  local last = redis.call('HGET', hash, 'given')
  if not entry or not last then
    return false
  end
  local pattern = '^(%d+)-(%d+) (%d+)$'
  local known, ours = { string.match(last, pattern) }, { string.match(entry .. ' ' .. given, pattern) }
  for at = 1, 3 do
    local difference = tonumber(ours[at] or 0) - tonumber(known[at] or 0)
    if difference ~= 0 then
      return difference < 0
    end
  end
  return false
end
local state, epoch, n, dam, deadline, attempt, most, async, sent, last_error, runs, own = unpack(redis.call('HMGET',
  hash, 'state', 'epoch', 'n', 'dam', 'deadline_ms', 'attempt', 'max_attempts', 'async', 'sent', 'last_error', 'runs',
  'colour'))

-- Ends the job as a dead letter.
local function die(error)
  redis.call('HSET', hash, 'last_error', error)
  fail('dead', 'upstream_broke', error, epoch, n, dam, async)
  return { 'DEAD', error, (select(2, kept())) }
end

if state == 'dead' then
  return { 'DEAD', last_error or '', (select(2, kept())) }
end
if state ~= 'queued' and state ~= 'running' then
  return { 'GONE' }
end
-- A job that has just become startable names no colour yet: its entry alone does.
if (own or '') ~= '' and own ~= colour then
  -- In the stream of its own colour the job is right, and this worker is wrong: it must end nothing.
  local side = string.match(stream or '', '{.-}:(.*)$')
  if not side or own == side then
    return { 'OTHER', own }
  end
  local at = now()
  redis.call('HSETNX', hash, 'refused_ms', at)
  -- A gateway may be moving the entry. After a while none is: it was written to the wrong stream.
  if math.abs(at - whole(redis.call('HGET', hash, 'refused_ms'), 0)) < REFUSED then
    return { 'OTHER', own }
  end
  if state == 'running' then
    return { 'GONE' } -- The run has an entry in the stream of its colour.
  end
  return die('The job is of the colour ' .. own .. ', and its entry in the stream of ' .. side .. '.')
end
if is_old() then
  return { 'LEAVE' }
end
if entry then
  redis.call('HSET', hash, 'given', entry .. ' ' .. given)
end
epoch, attempt, deadline = whole(epoch, 0), whole(attempt, 0), whole(deadline)
if not deadline then
  return die('The job has no valid deadline.')
end
local at = now()
local left = deadline - at
if left <= 0 then
  fail('expired', 'upstream_timeout', 'The deadline of the job has passed.', epoch, n, dam, async)
  return { 'GONE' }
end
-- A client has the beginning of another run's reply. A new reply cannot continue it.
if sent == '1' and async ~= '1' then
  fail('failed', 'upstream_broke', last_error or 'The worker was lost during its answer.', epoch, n, dam, async)
  return { 'GONE' }
end
-- The worker of the run before said nothing of its end.
if state == 'running' and whole(redis.call('HGET', hash, 'failed_epoch')) ~= epoch then
  note_error('The worker was lost.')
end
attempt = attempt + 1
if attempt > whole(most, 3) then
  return die(last_error or 'The worker was lost.')
end
-- The time, so that no two runs share an epoch even if Redis has lost the first one: the gateway would
-- take the entries of the second for repeats, and continue the first answer with it.
epoch = math.max(epoch + 1, at)
redis.call('DEL', reply)
redis.call('HSET', hash, 'state', 'running', 'epoch', epoch, 'n', 0, 'sent', 0, 'attempt', attempt, 'worker', worker,
  'runs', (runs and runs .. ' ' or '') .. worker .. '/' .. colour)
local path, headers, body, signature, sealed =
  unpack(redis.call('HMGET', hash, 'path', 'headers', 'body', 'signature', 'sealed'))
local waited = math.max(at - tonumber(string.match(entry or '', '^%d+') or at), 0)
return { 'RUN', epoch, attempt, left, path or '', headers or '{}', body or '', signature or '', sealed or '', waited }
