-- Shared by the scripts of pending jobs: each of `pend`, `promote`, `own` and `revive` is this text
-- and then its own. KEYS: 1 the pending jobs of the pool, 2 their number and bytes by caller.

local waiting, callers = KEYS[1], KEYS[2]
local BYTES = ':bytes' -- after a caller: the bytes of its jobs; alone: those of all
local DELAYED = ':delayed' -- the same for the number of jobs that are not to start before a time

-- Returns the record of a pending job.
local function known_of(pending)
  local read, known = pcall(cjson.decode, pending or '')
  return read and type(known) == 'table' and known or {}
end

-- Returns the number and bytes of a caller's jobs. Old gateways leave bytes behind without jobs.
local function held(caller)
  local count = tonumber(redis.call('HGET', callers, caller) or '0')
  return count, count > 0 and tonumber(redis.call('HGET', callers, caller .. BYTES) or '0') or 0
end

-- Returns the bytes pending of all callers.
local function held_of_all()
  return redis.call('HLEN', waiting) > 0 and tonumber(redis.call('HGET', callers, BYTES) or '0') or 0
end

-- Returns the time before which a job must not start, in ms since 1970; 0 if there is none.
local function not_before(pending)
  return tonumber(known_of(pending).not_before) or 0
end

-- Adds `by` to a number of delayed jobs, and removes it at zero.
local function count_delayed(field, by)
  if redis.call('HINCRBY', callers, field .. DELAYED, by) <= 0 then
    redis.call('HDEL', callers, field .. DELAYED)
  end
end

-- Returns the current time in ms since 1970.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Adds a job unless it is there; it counts for `caller`, `pending` is its record.
local function keep(job, caller, pending)
  local size = tonumber(known_of(pending).bytes) or 0
  local count, bytes = held(caller)
  local all = held_of_all()
  if redis.call('HSETNX', waiting, job, pending) == 1 then
    redis.call('HSET', callers, caller, count + 1, caller .. BYTES, bytes + size, BYTES, all + size)
    if not_before(pending) > 0 then
      count_delayed(caller, 1)
      count_delayed('', 1)
    end
  end
end

-- Removes a job that counts for `caller`.
local function take_out(job, caller)
  local pending = redis.call('HGET', waiting, job)
  local size = tonumber(known_of(pending).bytes) or 0
  redis.call('HDEL', waiting, job)
  if not_before(pending) > 0 then
    count_delayed(caller, -1)
    count_delayed('', -1)
  end
  if redis.call('HINCRBY', callers, caller, -1) <= 0 then
    redis.call('HDEL', callers, caller, caller .. BYTES)
  elseif redis.call('HINCRBY', callers, caller .. BYTES, -size) <= 0 then
    redis.call('HDEL', callers, caller .. BYTES)
  end
  if redis.call('HLEN', waiting) == 0 or redis.call('HINCRBY', callers, BYTES, -size) <= 0 then
    redis.call('HDEL', callers, BYTES)
  end
end
