-- For workers, each interval. Renews the entries of running jobs. KEYS: 1 the stream. ARGV: 1 the
-- worker, then entry ids. Returns the ids it no longer holds: stop their runs, leave the entries.

local lost = {}
for at = 2, #ARGV do
  local held = redis.call('XPENDING', KEYS[1], 'workers', ARGV[at], ARGV[at], 1)[1]
  if held and held[2] == ARGV[1] then
    redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], 0, ARGV[at], 'JUSTID')
  else
    lost[#lost + 1] = ARGV[at]
  end
end
return lost
