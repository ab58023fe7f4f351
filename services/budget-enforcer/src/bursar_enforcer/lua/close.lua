-- Close a hold with what its request cost. A closing has a rank (0 released, 1 expired, 2 recorded): a higher rank
-- replaces a lower one by the difference, an equal or lower one changes nothing. Works without the hold, too.
--
-- KEYS: policy, open holds, positions, outboxes, then one key per counter to charge.
-- ARGV: request id, rank, amounts n t T r (billions and rest of each, as doubles), names of the counters joined by blanks,
--       seconds to remember the closing; and for a record of the usage topic:
--       position field, position expected, position after it, outbox field, outbox sequence.
local id, rank, amounts, named, consumed = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[6]
local C = #KEYS - 4
local hold_key = HOLD .. id

if call('HGET', KEYS[1], '!open') == 'deleting' then return {'closed', 'deleting'} end

local repeated = false
if consumed then
  local position = call('HGET', KEYS[3], consumed) or ''
  if position ~= ARGV[7] then return {'moved', position} end
  if ARGV[9] ~= '' then
    local last = call('HGET', KEYS[4], ARGV[9])
    repeated = last and tonumber(last) >= tonumber(ARGV[10])
  end
end

-- The record is consumed whatever follows: an amount that cannot be booked must not hold up the topic.
local function moved()
  if consumed then
    call('HSET', KEYS[3], consumed, ARGV[8])
    if ARGV[9] ~= '' and not repeated then call('HSET', KEYS[4], ARGV[9], ARGV[10]) end
  end
end

if repeated then
  moved()
  return {'seen'}
end

local raw = read(hold_key, 5)
local kept = raw[1]
local open = kept and byte(kept) == OPEN
local was = kept and not open and sub(kept, 1, 1) or ''
if was ~= '' and rank <= was then
  moved()
  if consumed and was == '2' then call('EXPIRE', hold_key, ARGV[5]) end
  return {'kept', was}
end

-- The last steps of every closing.
local function remember()
  call('SET', hold_key, rank == '1' and '1' .. amounts .. named or rank, 'EX', ARGV[5])
  if open then call('ZREM', KEYS[2], id) end
end

local nh, nl, th, tl, Th, Tl, rh, rl = unpacked('<dddddddd', amounts)

-- The usual case: an open hold, charged to the very counters it names, all figures small. Anything else has written
-- nothing yet and goes on below.
if open and byte(kept, 2) == 49 then
  local stop = find(kept, '\n', 1, true)
  if sub(kept, C + 5, stop - 1) == named then
    local n, t, T, r = nh * BILLION + nl, th * BILLION + tl, Th * BILLION + Tl, rh * BILLION + rl
    local at, usual = stop + 1, true
    local writes, after = {}, {}
    for i = 1, C do
      local value, key = raw[i + 1], KEYS[4 + i]
      if not value or #value ~= SMALL_BYTES then usual = false break end
      local s, h, e, o, promised, flags = unpacked(SMALL, value)
      local expected, bound, following = unpacked('<dd', kept, at)
      at = following
      local unit = byte(key, UNIT_AT)
      s = s + (unit == 110 and n or unit == 116 and t or unit == 84 and T or r)
      if s >= EXACT or o < 1 then usual = false break end
      local state = pack(SMALL, s, h - expected, e - bound, o - 1, promised, flags)
      after[i], writes[2 * i - 1], writes[2 * i] = state, key, state
    end
    if usual then
      moved()
      write(writes)
      remember()
      return {'closed_now', was, '', joined(after, 1)}
    end
  end
end

-- Counters in the order charged; those a hold or an expiry names beside them are only freed.
local high, low = {n = nh, t = th, T = Th, r = rh}, {n = nl, t = tl, T = Tl, r = rl}
local names, value_of, charged = {}, {}, {}
for i = 1, C do
  local counter = sub(KEYS[4 + i], UNIT_AT)
  if not charged[counter] then names[#names + 1] = counter end
  charged[counter], value_of[counter] = true, raw[i + 1]
end
local function also(counter)
  if value_of[counter] == nil then
    names[#names + 1] = counter
    value_of[counter] = call('GET', COUNTER .. counter)
  end
end
local held, before = {}, {}
if open then
  local in_hold
  in_hold, held = entries_of(kept)
  for _, counter in ipairs(in_hold) do also(counter) end
elseif was == '1' then
  local a, b, c, d, e, f, g, h = unpacked('<dddddddd', kept, 2)
  local old = {n = {a, b}, t = {c, d}, T = {e, f}, r = {g, h}}
  for counter in string.gmatch(sub(kept, 66), '%S+') do
    also(counter)
    before[counter] = old[sub(counter, 1, 1)]
  end
end

local writes, after, fresh = {}, {}, {}
for i, counter in ipairs(names) do
  local value = value_of[counter]
  local w = wide(value)
  local free, old, unit = held[counter], before[counter], sub(counter, 1, 1)
  if free and w[7] * BILLION + w[8] > 0 then
    add(w, 2, -free[1], -free[2])
    add(w, 3, -free[3], -free[4])
    add(w, 4, 0, -1)
  end
  if old and value then add(w, 1, -old[1], -old[2]) end
  local charge = charged[counter] and (high[unit] > 0 or low[unit] > 0)
  if charge then add(w, 1, high[unit], low[unit]) end
  if w[1] >= MOST then
    moved()
    return {'overflow', counter}
  end
  after[i] = packed(w)
  if value or charge then
    writes[#writes + 1] = COUNTER .. counter
    writes[#writes + 1] = after[i]
    if not value then fresh[#fresh + 1] = COUNTER .. counter end
  end
end
moved()
write(writes)
for _, key in ipairs(fresh) do keep(key) end
remember()
return {'closed_now', was, table.concat(names, ' '), joined(after, 1)}
