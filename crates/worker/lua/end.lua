-- For workers and gateways. Removes an ended job's entry. KEYS: 1 the stream, 2 the dead letters.
-- ARGV: 1 the entry's id, 2 the job, 3 the error of a dead letter, else empty, 4 how many ms dead
-- letters are kept: a day, if not given. Returns 1 if found.

local held = redis.call('XACK', KEYS[1], 'workers', ARGV[1])
local there = redis.call('XDEL', KEYS[1], ARGV[1])
if held == 1 and ARGV[3] ~= '' then
  local time = redis.call('TIME')
  local keep = tonumber(ARGV[4] or 86400000)
  redis.call('XADD', KEYS[2], 'MINID', '~', time[1] * 1000 - keep, '*', 'job', ARGV[2], 'error', ARGV[3])
  redis.call('PEXPIRE', KEYS[2], keep)
end
return there
