-- What the scripts of one job share: each of `create`, `take`, `emit` and `cancel` is this text and then its own.
-- KEYS: 1 the job's hash, 2 its reply stream. ARGV: 1 the channel of replies without the dam, 2 the job.

local hash, reply, channel, job = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local KEEP = 600000 -- ms for which an answer outlives its last entry
local REMEMBER = 86400000 -- ms for which a job that somebody may ask for, or requeue, is remembered

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Adds to the answer, and tells the gateways that wait for it. The entry's id is its place, so none is added twice.
local function append(epoch, n, kind, data, dams)
  redis.call('XADD', reply, epoch .. '-' .. n, 'n', n, 'epoch', epoch, 'kind', kind, 'data', data)
  for dam in string.gmatch(dams or '', '%S+') do
    redis.call('PUBLISH', channel .. dam, job .. ' ' .. epoch .. ' ' .. n .. ' ' .. kind .. '\n' .. data)
  end
end

-- Ends the job, once: nobody calls this for one that has ended. What a second run would need goes, unless it may come.
local function finish(state, async)
  redis.call('HSET', hash, 'state', state, 'ended_ms', now())
  if state ~= 'dead' then
    redis.call('HDEL', hash, 'body', 'headers', 'signature')
  end
  local keep = redis.call('HGET', hash, 'keep') == '1'
  redis.call('PEXPIRE', hash, (async == '1' or keep or state == 'dead') and REMEMBER or KEEP)
  redis.call('PEXPIRE', reply, keep and REMEMBER or KEEP)
end

-- Ends the job with an error as its last entry, number `n`.
local function fail(state, reason, message, epoch, n, dam, async)
  append(epoch, n, 'error', cjson.encode({ reason = reason, message = message }), dam)
  redis.call('HSET', hash, 'n', n)
  finish(state, async)
end
