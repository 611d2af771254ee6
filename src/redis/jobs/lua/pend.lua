-- For gateways. Keeps an asynchronous job until there is room for it. ARGV: 1 the job, 2 for whom it counts, 3 how many
-- there may be, 4 how many of one caller, 5 what a gateway needs to know of it, 6 how many bytes they may be, 7 how many of
-- one caller. Answers OK, FULL, or, of this caller, MANY or HEAVY.

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
