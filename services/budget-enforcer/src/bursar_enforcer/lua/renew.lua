-- Keep a hold alive, let its amounts follow the stream, keep the event known so far. Re-creates a hold Redis lost.
--
-- KEYS: policy, open holds, then one key per counter of the hold.  ARGV: request id, the hold as it is to be kept.
local id, hold = ARGV[1], ARGV[2]
local hold_key = HOLD .. id
if call('HGET', KEYS[1], '!open') == 'deleting' then return {'closed', 'deleting'} end
local raw = read(hold_key, 3)
local kept = raw[1]
if kept and byte(kept) ~= OPEN then return {'gone', sub(kept, 1, 1)} end

local names, held = {}, {}
if kept then names, held = entries_of(kept) end
local at = find(hold, '\n', 1, true) + 1
local writes, after, fresh = {}, {}, {}
for i = 1, #KEYS - 2 do
  local value, key = raw[i + 1], KEYS[2 + i]
  local counter = sub(key, UNIT_AT)
  local w, old = wide(value), held[counter]
  if old and w[7] * BILLION + w[8] > 0 then
    add(w, 2, -old[1], -old[2])
    add(w, 3, -old[3], -old[4])
  else
    add(w, 4, 0, 1)
  end
  held[counter] = nil
  local eh, el, bh, bl, following = entry(hold, at)
  at = following
  add(w, 2, eh, el)
  add(w, 3, bh, bl)
  if over(w) then return {'overflow', counter} end
  local state = packed(w)
  after[i], writes[2 * i - 1], writes[2 * i] = state, key, state
  if not value then fresh[#fresh + 1] = key end
end
-- A counter the renewal no longer names is freed, so that held is always the sum over the open holds.
for _, counter in ipairs(names) do
  local old = held[counter]
  local value = old and call('GET', COUNTER .. counter)
  local w = wide(value)
  if value and w[7] * BILLION + w[8] > 0 then
    add(w, 2, -old[1], -old[2])
    add(w, 3, -old[3], -old[4])
    add(w, 4, 0, -1)
    writes[#writes + 1] = COUNTER .. counter
    writes[#writes + 1] = packed(w)
  end
end
write(writes)
for _, key in ipairs(fresh) do keep(key) end
call('SET', hold_key, hold)
local time = call('TIME')
call('ZADD', KEYS[2], tonumber(time[1]) * 1000 + floor(tonumber(time[2]) / 1000), id)
return {'renewed', sub(hold, 1, at - 1), joined(after, 1)}
