-- For workers. Adds entries to the reply of a run. ARGV: 3 the run's epoch, 4 the number of the
-- first entry, then kind and data of each entry. Returns
--   OK          added, now or by an earlier call
--   FENCED      another run has started: stop, and do not touch the entry
--   CANCELLED   the rest is not wanted: stop, and end the entry
-- An entry of the kind `fail` is not added: it reports why the run failed. The job may run again.
-- An unknown kind or a wrong number is an error, and nothing is added.

local KINDS = { head = true, data = true, ['end'] = true, error = true, fail = true }

-- Returns the error of a call that no worker should make. Of what it sent, a line of an error holds little.
local function wrong(what, sent, right)
  return redis.error_reply('ERR ' .. what .. ' is `' .. string.sub(sent, 1, 40) .. '`, not ' .. right)
end

local mine, first, count = ARGV[3], whole(ARGV[4], 0), (#ARGV - 4) / 2
if first == 0 then
  return wrong('the number of the first entry', ARGV[4], 'a whole number from 1 on')
end
for at = 5, #ARGV, 2 do
  if not KINDS[ARGV[at]] then
    return wrong('the kind of an entry', ARGV[at], 'head, data, end, error or fail')
  end
end

local state, epoch, n, dam, deadline, async, sent =
  unpack(redis.call('HMGET', hash, 'state', 'epoch', 'n', 'dam', 'deadline_ms', 'async', 'sent'))

if epoch ~= mine then
  return 'FENCED'
end
n, deadline = whole(n, 0), whole(deadline, 0)
local begins = n == 0
local heard = first + count - 1 <= n
if state ~= 'running' and not (heard and (state == 'done' or state == 'failed')) then
  return 'CANCELLED'
end
if heard then
  return 'OK'
end
if first > n + 1 then
  return redis.error_reply('GAP the next entry is number ' .. n + 1)
end
if now() >= deadline then
  fail('expired', 'upstream_timeout', 'The deadline of the job has passed.', epoch, n, dam, async)
  return 'CANCELLED'
end

local ended
for at = 5 + 2 * (n + 1 - first), #ARGV, 2 do
  local kind, data = ARGV[at], ARGV[at + 1]
  if kind == 'fail' then
    redis.call('HSET', hash, 'last_error', data, 'failed_epoch', epoch)
    note_error(data)
    if sent == '1' and async ~= '1' then
      fail('failed', 'upstream_broke', data, epoch, n, dam, async)
    end
    return 'OK'
  end
  n = n + 1
  append(epoch, n, kind, data, dam)
  if kind == 'data' then
    sent = '1'
  elseif kind ~= 'head' then
    ended = kind == 'end' and 'done' or 'failed'
    break
  end
end
redis.call('HSET', hash, 'n', n, 'sent', sent)
if ended then
  finish(ended, async)
elseif begins then
  -- Once a run, not with each token: it ends by its deadline.
  redis.call('PEXPIRE', reply, deadline - now() + kept())
end
return 'OK'
