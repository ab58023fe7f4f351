-- Records of the usage topic whose requests are closed already, which is nearly all of them: their outbox sequences are
-- noted, their closings are forgotten soon. Stops before the first record that needs a closing, with the position
-- exactly there; that one is `decide`'s.
--
-- KEYS: policy, positions, outboxes, then the hold of each record.
-- ARGV: position field, position expected, seconds to remember a closing whose record was read; a character for each
--       record, its rank or "-" (no effect); the position after each, as doubles; then, if any record came through an
--       outbox, two for each record: outbox field or empty, sequence.
if call('HGET', KEYS[1], '!open') == 'deleting' then return {'closed', 'deleting'} end
local position = call('HGET', KEYS[2], ARGV[1]) or ''
if position ~= ARGV[2] then return {'moved', position} end

local ttl, ranks = ARGV[3], ARGV[4]
local raw = read(KEYS[4], 5)
local through_outbox = #ARGV > 5
local last, noted = {}, {}       -- outbox field -> sequence in Redis, or noted here
local taken = 0
for i = 1, #ranks do
  local rank, kept, field, sequence = byte(ranks, i), raw[i], '', nil
  if rank ~= 45 then
    if through_outbox then
      field, sequence = ARGV[4 + 2 * i], tonumber(ARGV[5 + 2 * i])
      if field ~= '' and not last[field] then last[field] = tonumber(call('HGET', KEYS[3], field) or -1) end
    end
    if field == '' or last[field] < sequence then
      local was = kept and byte(kept)
      -- Not closed, or with a lower rank.
      if not was or was == OPEN or was < rank then break end
      if was == 50 then call('EXPIRE', KEYS[3 + i], ttl) end
      if field ~= '' then last[field], noted[field] = sequence, ARGV[5 + 2 * i] end
    end
  end
  taken = i
end
if taken > 0 then
  call('HSET', KEYS[2], ARGV[1], string.format('%.0f', (unpacked('<d', ARGV[5], 8 * taken - 7))))
end
for field, sequence in pairs(noted) do call('HSET', KEYS[3], field, sequence) end
return {'consumed', taken}
