-- For gateways. Has the answer told to one more of them, from now on. ARGV: 3 the gateway, then fields and values to be
-- set. Answers the job's state, or nothing.

local state, dams = unpack(redis.call('HMGET', hash, 'state', 'dam'))
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
redis.call('HSET', hash, 'dam', table.concat(kept, ' '), unpack(ARGV, 4))
return state
