-- For gateways. Lets workers have a job if they can start it. KEYS: 1 the stream of the pool's colour. ARGV: 1 how many
-- jobs the colour can hold, 2 the job. Answers the entry's id, or nothing.

if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then
  return false
end
return redis.call('XADD', KEYS[1], '*', 'job', ARGV[2])
