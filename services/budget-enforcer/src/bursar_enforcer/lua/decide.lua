-- Admissions and closings of one batch, in order, each seeing what those before it did. Counters are read once, kept as
-- numbers in between, and written once: nothing is written before the last operation is decided.
--
-- An admission is one request over all its counters: all have room and all are held, or nothing is changed. A closing
-- charges what a request cost. It has a rank (0 released, 1 expired, 2 recorded): a higher rank replaces a lower one by
-- the difference, an equal or lower one changes nothing. Works without the hold, too.
--
-- KEYS: policy, open holds, positions, outboxes, the counters of all operations, then the hold of each operation.
-- ARGV: run id; count of operations, of chains and of plans; "s" where replies are to tell the counters after them;
--       the operations as records: admission "A", plan (2 bytes); closing "C", or "T" for one from the usage topic,
--         chain (2), rank, seconds to remember it (4), amounts n t T r (billions and rest of each, as doubles);
--       for each chain: numbers of its counters (2 bytes each, from 1), their names joined by blanks;
--       for each plan: its chain (2 bytes); changes of the policy up to which its versions are known to be right;
--         version ids and versions, each joined by blanks; latest window start, earliest window end (Unix s); a letter
--         for each counter's mode; two doubles for each: below these, limit and ceiling are certainly kept; limits and
--         ceilings exactly, "<limit> <ceiling or nothing>;...";
--       for each admission the hold as it is to be kept; for each closing from the topic: position field, position
--         expected, position after it, outbox field, outbox sequence.
-- Modes: s standard, S strict, o observe, t tokens, T with cache reads, r requests. Ceiling: limit + max_overshoot.
-- Reply: changes of the policy, then a reply for each operation; a number where all is as usual (of an admission: the
-- first counter that would refuse if it did more than observe, or 0).
local HUGE = math.huge
local run_id, count = ARGV[1], tonumber(ARGV[2])
local telling, records, argument = ARGV[5] == 's', ARGV[6], 7
local first_hold = #KEYS - count     -- key before those of the holds
local N = first_hold - 4

local policy = call('HMGET', KEYS[1], '!open', '!changes')
local opened, changes = policy[1], policy[2] or '0'
local time = call('TIME')
local now_s = tonumber(time[1])

-- ---- counters, by number

local key_of, existed = {}, {}
local S, H, E, O, P, F = {}, {}, {}, {}, {}, {}  -- spent, held, exposed, open holds, promised, flags
local wides = {}                                 -- those with a larger amount, as twelve numbers; their S is infinite
local touched, is_touched = {}, {}

local function take(j, key, value)
  key_of[j], existed[j] = key, value and true
  if value and #value ~= SMALL_BYTES then
    wides[j], S[j], H[j], E[j], O[j], P[j], F[j] = wide(value), HUGE, 0, 0, 0, 0, 0
  elseif value then
    S[j], H[j], E[j], O[j], P[j], F[j] = unpacked(SMALL, value)
  else
    S[j], H[j], E[j], O[j], P[j], F[j] = 0, 0, 0, 0, 0, 0
  end
end

local function touch(j)
  if not is_touched[j] then
    is_touched[j] = true
    touched[#touched + 1] = j
  end
end

-- As twelve numbers, a copy.
local function wide_of(j)
  local w = wides[j]
  if w then return {unpack(w, 1, 12)} end
  local sh, sl = halves(S[j])
  local hh, hl = halves(H[j])
  local eh, el = halves(E[j])
  local ph, pl = halves(P[j])
  return {sh, sl, hh, hl, eh, el, 0, O[j], ph, pl, 0, F[j]}
end

local function put(j, w)
  touch(j)
  if is_large(w) then
    wides[j], S[j] = w, HUGE
  else
    wides[j] = nil
    S[j], H[j], E[j] = w[1] * BILLION + w[2], w[3] * BILLION + w[4], w[5] * BILLION + w[6]
    O[j], P[j], F[j] = w[7] * BILLION + w[8], w[9] * BILLION + w[10], w[11] * BILLION + w[12]
  end
end

local function value_of(j)
  local w = wides[j]
  if w then return packed_large(w) end
  return pack(SMALL, S[j], H[j], E[j], O[j], P[j], F[j])
end

-- Counters for a reply: one string, all of them small, or all large.
local function told(numbers)
  local large, out = false, {}
  for k, j in ipairs(numbers) do large = large or wides[j] ~= nil end
  for k, j in ipairs(numbers) do out[k] = large and packed_large(wide_of(j)) or value_of(j) end
  return table.concat(out)
end

-- ---- what is read

-- That many doubles in a row.
local layouts = {}
local function doubles(count, text, at)
  local layout = layouts[count]
  if not layout and count <= 2 * CHUNK then
    layout = '<' .. string.rep('d', count)
    layouts[count] = layout
  end
  if layout then return {unpacked(layout, text, at)} end
  local out = {}
  for k = 1, count do out[k], at = unpacked('<d', text, at) end
  return out
end

local raw = read(KEYS[5], 6)
for j = 1, N do take(j, KEYS[4 + j], raw[j]) end
local holds = {}                   -- key -> as it stands, false: there is none
for i = 1, count do holds[KEYS[first_hold + i]] = raw[N + i] end

-- Letters of units to places among a closing's amounts.
local PLACE = {[110] = 1, [116] = 2, [84] = 3, [114] = 4}
local chains = {}
for c = 1, tonumber(ARGV[3]) do
  local numbers, names = ARGV[argument], ARGV[argument + 1]
  argument = argument + 2
  local chain, units = {}, {}
  for k = 1, #numbers / 2 do
    local j = unpacked('<H', numbers, 2 * k - 1)
    chain[k], units[k] = j, PLACE[byte(KEYS[4 + j], UNIT_AT)]
  end
  chains[c] = {numbers = chain, units = units, names = names}
end
local plans = {}
for p = 1, tonumber(ARGV[4]) do
  local modes, sure = ARGV[argument + 6], ARGV[argument + 7]
  local sure_of = doubles(2 * #modes, sure, 1)
  local surely = {}                -- beyond these the short way does not tell
  for k = 1, 2 * #modes do surely[k] = math.min(sure_of[k], EXACT) end
  plans[p] = {
    chain = chains[unpacked('<H', ARGV[argument])], known = ARGV[argument + 1],
    ids = ARGV[argument + 2], versions = ARGV[argument + 3],
    from = tonumber(ARGV[argument + 4]), till = tonumber(ARGV[argument + 5]),
    modes = modes, sure = sure_of, surely = surely, limits = ARGV[argument + 8],
  }
  argument = argument + 9
end

-- ---- what is to be written beside counters

local renewed, closed = {}, {}     -- hold key -> hold; hold key -> {closing, seconds}
local soon = {}                    -- keys of closings to be forgotten soon, and in how many seconds
local positions, outboxes = {}, {} -- field -> value
local moved_any = false

-- ---- admissions

-- Billions and rest of a whole number in decimal.
local function parts(text)
  if #text <= 9 then return 0, tonumber(text) end
  return tonumber(sub(text, 1, -10)), tonumber(sub(text, -9))
end

-- Why the k-th counter (wide, before this request) has no room, exactly; nil: it has.
local function judge(plan, k, w, eh, el, bh, bl)
  local mode, at, limits = sub(plan.modes, k, k), 0, nil
  for text in string.gmatch(plan.limits, '[^;]+') do
    at = at + 1
    if at == k then limits = text break end
  end
  local limit, ceiling = string.match(limits, '^(%d+) (%d*)$')
  local high, low = parts(limit)
  local function above(a, b) return (a - high) * BILLION + (b - low) > 0 end
  local sh, sl, any = w[1], w[2], w[7] > 0 or w[8] > 0
  if mode == 'r' then return above(sh + w[3] + eh, sl + w[4] + el) and 'spent' or nil end
  if above(sh, sl + 1) then return 'spent' end                  -- spent >= limit
  local code
  if above(sh + eh, sl + el) then
    if (mode == 't' or mode == 'T') and sh == 0 and sl == 0 and above(eh, el) then
      -- Larger than the whole limit: admitted alone in an untouched window, else it could never run.
      return any and 'reserved' or nil
    end
    return 'large'
  elseif above(sh + w[3] + eh, sl + w[4] + el) then
    code = 'reserved'
  end
  if ceiling ~= '' then
    high, low = parts(ceiling)
    if mode == 'S' and above(sh + bh, sl + bl) then return 'large' end
    if (mode == 'S' or any) and above(sh + w[5] + bh, sl + w[6] + bl) then code = 'reserved' end
  end
  return code
end

local function is_stale(plan)
  if plan.stale == nil then
    plan.stale = false
    if changes ~= plan.known then
      -- Something was changed since; perhaps nothing of this chain.
      local versions = string.gmatch(plan.versions, '%S+')
      for version_id in string.gmatch(plan.ids, '%S+') do
        if (call('HGET', KEYS[1], version_id) or '0') ~= versions() then plan.stale = true end
      end
    end
  end
  return plan.stale
end

-- The first operation on a chain's counters.
local function begin(chain)
  chain.begun = true
  for _, j in ipairs(chain.numbers) do touch(j) end
end

-- The usual case: plenty of room on every counter, and only small figures. False: nothing was changed.
local function admit_short(plan, amounts)
  local chain, surely = plan.chain, plan.surely
  local numbers, S, H, E, O, P = chain.numbers, S, H, E, O, P
  for k = 1, #numbers do
    local j, a = numbers[k], 2 * k
    local s = S[j]
    if s + H[j] + amounts[a - 1] >= surely[a - 1] or s + E[j] + amounts[a] >= surely[a] then return false end
  end
  if not chain.begun then begin(chain) end
  for k = 1, #numbers do
    local j, a = numbers[k], 2 * k
    local held = H[j] + amounts[a - 1]
    H[j], E[j], O[j], P[j] = held, E[j] + amounts[a], O[j] + 1, S[j] + held
  end
  if not chain.admitted then
    chain.admitted = true
    for _, j in ipairs(numbers) do
      if F[j] < ADMITTED then F[j] = F[j] + ADMITTED end
    end
  end
  return true
end

local function admit(plan, key, hold)
  local chain = plan.chain
  local numbers = chain.numbers
  local kept = holds[key]
  if kept and byte(kept) ~= OPEN then return {'gone', sub(kept, 1, 1)} end
  if kept then return {'again', kept, 0, changes, told(numbers)} end
  if opened ~= run_id then return {'closed', opened or ''} end
  if is_stale(plan) then return {'stale'} end
  if now_s < plan.from or now_s >= plan.till then return {'window', now_s} end

  local small = byte(hold, 2) == 49
  local at = find(hold, '\n', 1, true) + 1
  local amounts = small and doubles(2 * #numbers, hold, at)
  if amounts and admit_short(plan, amounts) then
    holds[key], renewed[key] = hold, hold
    if telling then return {'admitted', '', 0, changes, told(numbers)} end
    return 0
  end
  local sure = plan.sure
  local reserved, would, full = 0, 0, 0
  local after                                    -- those that are, or become, wide
  for k = 1, #numbers do
    local j = numbers[k]
    local code, eh, el, bh, bl
    local usual = small and not wides[j]
    if usual then
      local expected, bound, s = amounts[2 * k - 1], amounts[2 * k], S[j]
      local promised, exposed = s + H[j] + expected, E[j] + bound
      -- Plenty of room is the usual case; anything else is judged exactly.
      if promised >= sure[2 * k - 1] or s + exposed >= sure[2 * k] then
        eh, el = halves(expected)
        bh, bl = halves(bound)
        code = judge(plan, k, wide_of(j), eh, el, bh, bl)
      end
      if promised >= EXACT or exposed >= EXACT then
        usual = false
        eh, el = halves(expected)
        bh, bl = halves(bound)
      end
    else
      eh, el, bh, bl = entry(hold, at + (k - 1) * (small and 16 or 32))
      code = judge(plan, k, wide_of(j), eh, el, bh, bl)
    end
    if not usual then
      local w = wide_of(j)
      add(w, 2, eh, el)
      add(w, 3, bh, bl)
      add(w, 4, 0, 1)
      w[9], w[10] = w[1], w[2]
      add(w, 5, w[3], w[4])
      if w[12] < ADMITTED then w[12] = w[12] + ADMITTED end
      if over(w) then full = k end
      after = after or {}
      after[k] = w
    end
    if code then
      if byte(plan.modes, k) == 111 then           -- observe
        if would == 0 then would = k end
      elseif code == 'reserved' then
        if reserved == 0 then reserved = k end
      else
        return {'refused', code, k, changes, told(numbers)}
      end
    end
  end
  if reserved > 0 then return {'refused', 'reserved', reserved, changes, told(numbers)} end
  if full > 0 then return {'overflow', key_of[numbers[full]]} end

  for k = 1, #numbers do
    local j = numbers[k]
    local w = after and after[k]
    if w then
      put(j, w)
    else
      touch(j)
      local held = H[j] + amounts[2 * k - 1]
      H[j], E[j], O[j], P[j] = held, E[j] + amounts[2 * k], O[j] + 1, S[j] + held
      if F[j] < ADMITTED then F[j] = F[j] + ADMITTED end
    end
  end
  holds[key], renewed[key] = hold, hold
  if telling then return {'admitted', '', would, changes, told(numbers)} end
  return would
end

-- ---- closings

-- Number of a counter, also of one that no operation named.
local number_of
local function numbered(counter)
  if not number_of then
    number_of = {}
    for j = 1, N do number_of[key_of[j]] = j end
  end
  local key = COUNTER .. counter
  if not number_of[key] then
    N = N + 1
    number_of[key] = N
    take(N, key, call('GET', key))
  end
  return number_of[key]
end

-- The last step of every closing.
local function remember(key, rank, ttl, amounts, chain)
  holds[key] = rank == '1' and rank .. amounts .. chain.names or rank
  closed[key], renewed[key], soon[key] = ttl, nil, nil
end

-- The usual case: an open hold, charged to the very counters it names, all figures small. False: nothing was changed.
local function close_short(kept, chain, n, t, T, r)
  local numbers, units = chain.numbers, chain.units
  local C = #numbers
  local stop = find(kept, '\n', C + 5, true)
  if stop ~= C + 5 + #chain.names or find(kept, chain.names, C + 5, true) ~= C + 5 then return false end
  local S, H, E, O, charge = S, H, E, O, {n, t, T, r}
  for k = 1, C do
    local j = numbers[k]
    if S[j] + charge[units[k]] >= EXACT or O[j] < 1 then return false end
  end
  if not chain.begun then begin(chain) end
  local old = doubles(2 * C, kept, stop + 1)
  for k = 1, C do
    local j, a = numbers[k], 2 * k
    S[j], H[j], E[j], O[j] = S[j] + charge[units[k]], H[j] - old[a - 1], E[j] - old[a], O[j] - 1
  end
  return true
end

local function close(key, rank, ttl, amounts, chain, guard)
  if opened == 'deleting' then return {'closed', 'deleting'} end
  if guard then
    local field, outbox, sequence = ARGV[guard], ARGV[guard + 3], ARGV[guard + 4]
    local position = positions[field] or call('HGET', KEYS[3], field) or ''
    if position ~= ARGV[guard + 1] then return {'moved', position} end
    -- The record is consumed whatever follows: an amount that cannot be booked must not hold up the topic.
    positions[field], moved_any = ARGV[guard + 2], true
    if outbox ~= '' then
      local last = outboxes[outbox] or call('HGET', KEYS[4], outbox)
      if last and tonumber(last) >= tonumber(sequence) then return {'seen'} end
      outboxes[outbox] = sequence
    end
  end

  local kept = holds[key]
  local open = kept and byte(kept) == OPEN
  local was = kept and not open and sub(kept, 1, 1) or ''
  if was ~= '' and rank <= was then
    if guard and was == '2' then soon[key] = ttl end
    return {'kept', was}
  end

  local numbers = chain.numbers
  local C = #numbers
  local nh, nl, th, tl, Th, Tl, rh, rl = unpacked('<dddddddd', amounts)

  if open and byte(kept, 2) == 49
    and close_short(kept, chain, nh * BILLION + nl, th * BILLION + tl, Th * BILLION + Tl, rh * BILLION + rl) then
    remember(key, rank, ttl, amounts, chain)
    if telling then return {'closed_now', was, '', told(chain.numbers)} end
    return 0
  end

  -- Counters in the order charged; those a hold or an expiry names beside them are only freed.
  local high, low = {n = nh, t = th, T = Th, r = rh}, {n = nl, t = tl, T = Tl, r = rl}
  local names, listed, charged = {}, {}, {}
  local function also(counter)
    if not listed[counter] then
      listed[counter] = numbered(counter)
      names[#names + 1] = counter
    end
  end
  for k = 1, C do
    local counter = sub(key_of[numbers[k]], UNIT_AT)
    also(counter)
    charged[counter] = true
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

  local changed, all = {}, {}
  for i, counter in ipairs(names) do
    local j = listed[counter]
    local w = wide_of(j)
    local there = existed[j] or is_touched[j]
    local free, old, unit = held[counter], before[counter], sub(counter, 1, 1)
    if free and w[7] * BILLION + w[8] > 0 then
      add(w, 2, -free[1], -free[2])
      add(w, 3, -free[3], -free[4])
      add(w, 4, 0, -1)
    end
    if old and there then add(w, 1, -old[1], -old[2]) end
    local charge = charged[counter] and (high[unit] > 0 or low[unit] > 0)
    if charge then add(w, 1, high[unit], low[unit]) end
    if w[1] >= MOST then return {'overflow', counter} end
    all[i] = j
    if there or charge then changed[j] = w end
  end
  for j, w in pairs(changed) do put(j, w) end
  remember(key, rank, ttl, amounts, chain)
  return {'closed_now', was, table.concat(names, ' '), told(all)}
end

-- ---- all of them, then the writes

local replies, at, ttls = {changes}, 1, {}
for i = 1, count do
  local kind, key = byte(records, at), KEYS[first_hold + i]
  if kind == 65 then
    replies[i + 1] = admit(plans[unpacked('<H', records, at + 1)], key, ARGV[argument])
    argument = argument + 1
    at = at + 3
  else
    local chain, rank, ttl = unpacked('<Hc1I', records, at + 1)
    ttls[ttl] = ttls[ttl] or string.format('%.0f', ttl)
    ttl = ttls[ttl]
    local guard = kind == 84 and argument
    if guard then argument = argument + 5 end
    replies[i + 1] = close(key, rank, ttl, sub(records, at + 8, at + 71), chains[chain], guard)
    at = at + 72
  end
end

local writes, n, fresh = {}, 0, {}
for _, j in ipairs(touched) do
  writes[n + 1], writes[n + 2] = key_of[j], value_of(j)
  n = n + 2
  if not existed[j] then fresh[#fresh + 1] = key_of[j] end
end
-- As text: a number is written anew, and slowly, for each command it is given to.
local now_ms = string.format('%.0f', now_s * 1000 + floor(tonumber(time[2]) / 1000))
local alive, ended = {}, {}
for key, hold in pairs(renewed) do
  writes[n + 1], writes[n + 2] = key, hold
  n = n + 2
  alive[#alive + 1] = now_ms
  alive[#alive + 1] = sub(key, #HOLD + 1)
end
write(writes)
for _, key in ipairs(fresh) do keep(key) end
if #alive > 0 then call('ZADD', KEYS[2], unpack(alive)) end
for key, ttl in pairs(closed) do
  call('SET', key, holds[key], 'EX', ttl)
  ended[#ended + 1] = sub(key, #HOLD + 1)
end
if #ended > 0 then call('ZREM', KEYS[2], unpack(ended)) end
for key, ttl in pairs(soon) do call('EXPIRE', key, ttl) end
if moved_any then
  for field, following in pairs(positions) do call('HSET', KEYS[3], field, following) end
  for field, sequence in pairs(outboxes) do call('HSET', KEYS[4], field, sequence) end
end
return replies
