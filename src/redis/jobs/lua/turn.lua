-- For gateways. The turns of a session, which run one after the other in the order in which they
-- came. KEYS: 1 the session. ARGV: 1 what to do, 2 the turn, 3 how many ms a turn counts without
-- another call, 4 how many ms the session is remembered, 5 the most turns that wait; for `end` 3 the
-- worker that answered, if one did.
--   ask     returns TURN and the worker of the turn before (or nothing); WAIT; or MANY
--   renew   keeps the turn; returns 1, or 0 if another one has it
--   end     ends the turn, or its wait; returns 1

local session, turn = KEYS[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if ARGV[1] == 'end' then
  redis.call('HDEL', session, 'wait:' .. turn)
  if redis.call('HGET', session, 'turn') == turn then
    redis.call('HDEL', session, 'turn', 'until')
    if ARGV[3] ~= '' then
      redis.call('HSET', session, 'worker', ARGV[3])
    end
    redis.call('PEXPIRE', session, ARGV[4])
  end
  return 1
end

local running, lasts = unpack(redis.call('HMGET', session, 'turn', 'until'))
if ARGV[1] == 'renew' then
  if running ~= turn then
    return 0
  end
  redis.call('HSET', session, 'until', now + ARGV[3])
  redis.call('PEXPIRE', session, ARGV[4])
  return 1
end

-- The waiting turns: each has the time at which it came, and that of its last call.
local first, came, count = nil, nil, 0
local fields = redis.call('HGETALL', session)
for at = 1, #fields, 2 do
  local id = string.match(fields[at], '^wait:(.*)$')
  if id then
    local since, seen = string.match(fields[at + 1], '^(%d+) (%d+)$')
    since, seen = tonumber(since), tonumber(seen)
    if id ~= turn and seen + ARGV[3] < now then
      redis.call('HDEL', session, fields[at]) -- Its gateway is gone.
    else
      count = count + 1
      if id == turn then
        came = since
      end
      if not first or since < first.since or (since == first.since and id < first.id) then
        first = { id = id, since = since }
      end
    end
  end
end
local is_free = not running or tonumber(lasts) < now
if is_free and (not first or first.id == turn) then
  redis.call('HDEL', session, 'wait:' .. turn)
  redis.call('HSET', session, 'turn', turn, 'until', now + ARGV[3])
  redis.call('PEXPIRE', session, ARGV[4])
  return { 'TURN', redis.call('HGET', session, 'worker') or '' }
end
if not came and count >= tonumber(ARGV[5]) then
  return { 'MANY' }
end
redis.call('HSET', session, 'wait:' .. turn, (came or now) .. ' ' .. now)
redis.call('PEXPIRE', session, ARGV[4])
return { 'WAIT' }
