-- Shared by the scripts of one job: each of `create`, `take`, `emit`, `discard`, `cancel`, `attach`,
-- `requeue`, `recolour`, `bury` and `store` is this text and then its own. KEYS: 1 the job's hash, 2 its
-- reply stream. ARGV: 1 the prefix of reply channels, before the gateway, 2 the job.

local hash, reply, channel, job = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local KEEP = 600000 -- ms that a reply is kept, unless its job says otherwise
local REMEMBER = 86400000 -- ms that an asynchronous, repeatable or dead job is kept, likewise

local MOST = 99999999999999 -- a larger number would be written with an exponent

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Returns a field as a whole number from 0 on; `default` if it is none: anybody can write to Redis.
local function whole(field, default)
  local number = tonumber(field)
  if number and number >= 0 and number <= MOST and number == math.floor(number) then
    return number
  end
  return default
end

-- Returns how many ms the reply is kept after its end, and the job if it is remembered.
local function kept()
  local answers, keep = unpack(redis.call('HMGET', hash, 'answers_ms', 'keep_ms'))
  return whole(answers, KEEP), whole(keep, REMEMBER)
end

-- Adds a reply entry and publishes it to waiting gateways. The id is its position: no duplicates.
local function append(epoch, n, kind, data, dams)
  redis.call('XADD', reply, epoch .. '-' .. n, 'n', n, 'epoch', epoch, 'kind', kind, 'data', data)
  for dam in string.gmatch(dams or '', '%S+') do
    redis.call('PUBLISH', channel .. dam, job .. ' ' .. epoch .. ' ' .. n .. ' ' .. kind .. '\n' .. data)
  end
end

-- Records why a run failed, for people: of the last 10 runs, the first 500 bytes each.
local function note_error(message)
  local worker, runs, errors = unpack(redis.call('HMGET', hash, 'worker', 'runs', 'errors'))
  local run = string.match(runs or '', '(%S+)$') or worker or ''
  local read, list = pcall(cjson.decode, errors or '[]')
  list = read and type(list) == 'table' and list or {}
  list[#list + 1] = { run = run, error = string.sub(message, 1, 500) }
  while #list > 10 do
    table.remove(list, 1)
  end
  redis.call('HSET', hash, 'errors', cjson.encode(list))
end

-- Ends a job that has not ended. Deletes what another run needs, unless it is a dead letter.
local function finish(state, async)
  redis.call('HSET', hash, 'state', state, 'ended_ms', now())
  if state ~= 'dead' then
    redis.call('HDEL', hash, 'body', 'headers', 'signature')
  end
  local keep = redis.call('HGET', hash, 'keep') == '1'
  local answers, remember = kept()
  redis.call('PEXPIRE', hash, (async == '1' or keep or state == 'dead') and remember or answers)
  redis.call('PEXPIRE', reply, keep and remember or answers)
end

-- Ends the job with an error as its last reply entry, the one after number `n`.
local function fail(state, reason, message, epoch, n, dam, async)
  epoch, n = whole(epoch, 0), whole(n, 0) + 1
  append(epoch, n, 'error', cjson.encode({ reason = reason, message = message }), dam)
  redis.call('HSET', hash, 'n', n)
  finish(state, async)
end
