-- Records of the usage topic whose requests are closed already, which is nearly all of them: their outbox sequences are
-- noted, their closings are forgotten soon. Stops before the first record that needs a closing, with the position
-- exactly there; that one is `close`'s.
--
-- KEYS: policy, positions, outboxes.
-- ARGV: position field, position expected, seconds to remember a closing whose record was read; then five for each
--       record: position after it, request id (empty: a record without effect), rank, outbox field or empty, sequence.
if call('HGET', KEYS[1], '!open') == 'deleting' then return {'closed', 'deleting'} end
local position = call('HGET', KEYS[2], ARGV[1]) or ''
if position ~= ARGV[2] then return {'moved', position} end

local last, noted = {}, {}       -- outbox field -> sequence in Redis, or noted here
local taken, following = 0, nil
for at = 4, #ARGV, 5 do
  local id, field, sequence = ARGV[at + 1], ARGV[at + 3], tonumber(ARGV[at + 4])
  if id ~= '' then
    if field ~= '' and not last[field] then last[field] = tonumber(call('HGET', KEYS[3], field) or -1) end
    if field == '' or last[field] < sequence then
      local hold_key = HOLD .. id
      local kept = call('GETRANGE', hold_key, 0, 0)
      -- Not closed, or with a lower rank.
      if kept == '' or byte(kept) == OPEN or kept < ARGV[at + 2] then break end
      if kept == '2' then call('EXPIRE', hold_key, ARGV[3]) end
      if field ~= '' then last[field], noted[field] = sequence, ARGV[at + 4] end
    end
  end
  taken, following = taken + 1, ARGV[at]
end
if following then call('HSET', KEYS[2], ARGV[1], following) end
for field, sequence in pairs(noted) do call('HSET', KEYS[3], field, sequence) end
return {'consumed', taken}
