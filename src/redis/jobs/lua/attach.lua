-- For gateways. Adds a gateway to those that get the reply. ARGV: 3 the gateway, 4 the most ms that
-- the job may still take, or empty, then fields and values to set. Returns the job's state, or nil.

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
-- A gateway that died must not be notified for ever: the oldest of more than 8 is dropped.
if #kept > 7 then
  table.remove(kept, 1)
end
kept[#kept + 1] = dam
if ARGV[4] ~= '' then
  redis.call('HSET', hash, 'deadline_ms', math.min(whole(deadline, MOST), now() + tonumber(ARGV[4])))
end
redis.call('HSET', hash, 'dam', table.concat(kept, ' '), unpack(ARGV, 5))
return state
