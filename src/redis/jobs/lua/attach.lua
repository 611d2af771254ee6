-- For gateways. Has the answer told to one more of them, from now on. ARGV: 3 the gateway, 4 the most ms that the job may
-- still take, or empty, then fields and values to be set. Answers the job's state, or nothing.

local state, dams, deadline = unpack(redis.call('HMGET', hash, 'state', 'dam', 'deadline_ms'))
if not state then
  return false
end
local dam, kept = ARGV[3], {}
for known in string.gmatch(dams or '', '%S+') do
  if known ~= dam then
    kept[#kept + 1] = known
  end
end
-- Who came first and went without a word must not be told for ever.
if #kept > 7 then
  table.remove(kept, 1)
end
kept[#kept + 1] = dam
if ARGV[4] ~= '' then
  deadline = math.min(tonumber(deadline), now() + tonumber(ARGV[4]))
end
redis.call('HSET', hash, 'dam', table.concat(kept, ' '), 'deadline_ms', deadline, unpack(ARGV, 5))
return state
