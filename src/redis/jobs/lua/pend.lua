-- For gateways. Adds an asynchronous job to the pending ones. ARGV: 1 the job, 2 the caller it
-- counts for, 3 the most jobs, 4 the most of one caller, 5 its record (JSON), 6 the most bytes, 7
-- the most of one caller, 8 how many ms ahead the job may be told to start. Returns OK, FULL, or for
-- this caller MANY (jobs) or HEAVY (bytes); for a job with a time to start PAST, FAR (off), or LATER
-- (too many have one: they may be half of all).

local LATE = 60000 -- ms that the time may lie in the past
if redis.call('HEXISTS', waiting, ARGV[1]) == 1 then
  return 'OK'
end
local starts = not_before(ARGV[5])
if starts > 0 then
  local ahead = starts - now()
  if ahead < -LATE then
    return 'PAST'
  end
  if ahead > tonumber(ARGV[8]) then
    return 'FAR'
  end
  local function delayed(field)
    return tonumber(redis.call('HGET', callers, field .. DELAYED) or '0')
  end
  if delayed('') >= ARGV[3] / 2 or delayed(ARGV[2]) >= ARGV[4] / 2 then
    return 'LATER'
  end
end
if redis.call('HLEN', waiting) >= tonumber(ARGV[3]) then
  return 'FULL'
end
local size, all = tonumber(known_of(ARGV[5]).bytes) or 0, held_of_all()
if all > 0 and all + size > tonumber(ARGV[6]) then
  return 'FULL'
end
local count, bytes = held(ARGV[2])
if count >= tonumber(ARGV[4]) then
  return 'MANY'
end
if bytes > 0 and bytes + size > tonumber(ARGV[7]) then
  return 'HEAVY'
end
keep(ARGV[1], ARGV[2], ARGV[5])
return 'OK'
