-- What the scripts of jobs that wait share: each of `pend`, `promote`, `own` and `revive` is this text and then its own.
-- KEYS: 1 the pool's pending jobs, 2 how many each caller has there.

local waiting, callers = KEYS[1], KEYS[2]

-- Keeps a job, unless it is there: for whom it counts, and what a gateway needs to know of it.
local function keep(job, caller, pending)
  if redis.call('HSETNX', waiting, job, pending) == 1 then
    redis.call('HINCRBY', callers, caller, 1)
  end
end

-- Takes a job out that counts for `caller`.
local function take_out(job, caller)
  redis.call('HDEL', waiting, job)
  if redis.call('HINCRBY', callers, caller, -1) <= 0 then
    redis.call('HDEL', callers, caller)
  end
end
