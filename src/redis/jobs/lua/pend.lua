-- For gateways. Adds an asynchronous job to the pending ones. ARGV: 1 the job, 2 the caller it
-- counts for, 3 the most jobs, 4 the most of one caller, 5 its record (JSON), 6 the most bytes, 7
-- the most of one caller. Returns OK, FULL, or for this caller MANY (jobs) or HEAVY (bytes).

if redis.call('HEXISTS', waiting, ARGV[1]) == 1 then
  return 'OK'
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
