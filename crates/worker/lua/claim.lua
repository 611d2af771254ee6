-- For workers, each interval. Claims entries that were not renewed, wherever they are among renewed
-- ones. KEYS: 1 the stream. ARGV: 1 the worker, 2 the idle time in ms, 3 the most at once, 4 the
-- worker's colour: entries of another one stay, 5 `1` for a worker that ends misplaced entries after a
-- while. Returns a flat list: for each entry its id, its job (empty if it names none) and its delivery
-- count, which is 0 for a misplaced entry that is to be ended.

local colour, ends = ARGV[4], ARGV[5] == '1'
local side = string.match(KEYS[1], '{.-}:(.*)$')
local DELIVERIES = 8 -- of a misplaced entry, before it is ended

-- Returns the fields of an entry. Older gateways do not name a colour.
local function fields_of(entry)
  local list, fields = entry and entry[2] or {}, {}
  for at = 1, #list, 2 do
    fields[list[at]] = list[at + 1]
  end
  return fields
end

local claimed = {}
for _, left in ipairs(redis.call('XPENDING', KEYS[1], 'workers', 'IDLE', ARGV[2], '-', '+', ARGV[3])) do
  local written = fields_of(redis.call('XRANGE', KEYS[1], left[1], left[1])[1])
  local of = written.colour or colour
  local is_ours = not colour or of == colour
  -- An entry is misplaced if it names another colour than its stream. One that names its stream's is
  -- right, and a worker of another colour here is wrong: it must not touch the entry.
  local is_misplaced = ends and not is_ours and side and of ~= side
  -- The claim counts a delivery of a misplaced entry, and lets those behind it be found.
  local entry = (is_ours or is_misplaced) and redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], ARGV[2], left[1])[1]
  if entry and (is_ours or left[4] >= DELIVERIES) then
    claimed[#claimed + 1] = entry[1]
    claimed[#claimed + 1] = written.job or ''
    claimed[#claimed + 1] = is_ours and left[4] + 1 or 0
  end
end
return claimed
