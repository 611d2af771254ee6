-- For gateways. Keeps an asynchronous job until there is room for it. ARGV: 1 the job, 2 for whom it counts, 3 how many
-- there may be, 4 how many of one caller, 5 what a gateway needs to know of it. Answers OK, FULL, or MANY (of this caller).

if redis.call('HEXISTS', waiting, ARGV[1]) == 1 then
  return 'OK'
end
if redis.call('HLEN', waiting) >= tonumber(ARGV[3]) then
  return 'FULL'
end
if tonumber(redis.call('HGET', callers, ARGV[2]) or '0') >= tonumber(ARGV[4]) then
  return 'MANY'
end
keep(ARGV[1], ARGV[2], ARGV[5])
return 'OK'
