-- Decide one request over all its counters: all have room and all are held, or nothing is written.
--
-- KEYS: policy, open holds, then one key per counter, narrowest owner first.
-- ARGV: version ids and versions of the chain, each joined by blanks; latest window start, earliest window end
--       (Unix s); a letter for each counter's mode; two doubles for each: below these, limit and ceiling are certainly
--       kept; limits and ceilings exactly, "<limit> <ceiling or nothing>;..."; then the request's own: run id, request
--       id, the hold as it is to be kept, changes of the policy up to which the versions are known to be right.
-- Modes: s standard, S strict, o observe, t tokens, T with cache reads, r requests. Ceiling: limit + max_overshoot.
local C = #KEYS - 2
local modes, sure_limits, id, hold, known = ARGV[5], ARGV[6], ARGV[9], ARGV[10], ARGV[11]
local hold_key = HOLD .. id

local raw = read(hold_key, 3)
local kept = raw[1]
if kept and byte(kept) ~= OPEN then return {'gone', sub(kept, 1, 1)} end

local policy = call('HMGET', KEYS[1], '!open', '!changes')
local changes = policy[2] or '0'
if kept then return {'again', kept, 0, changes, joined(raw, 2)} end
local time = call('TIME')
local now_s = tonumber(time[1])
if policy[1] ~= ARGV[8] then return {'closed', policy[1] or ''} end
if changes ~= known then
  -- Something was changed since; perhaps nothing of this chain.
  local versions = string.gmatch(ARGV[2], '%S+')
  for version_id in string.gmatch(ARGV[1], '%S+') do
    if (call('HGET', KEYS[1], version_id) or '0') ~= versions() then return {'stale'} end
  end
end
if now_s < tonumber(ARGV[3]) or now_s >= tonumber(ARGV[4]) then return {'window', now_s} end

-- Billions and rest of a whole number in decimal.
local function parts(text)
  if #text <= 9 then return 0, tonumber(text) end
  return tonumber(sub(text, 1, -10)), tonumber(sub(text, -9))
end

-- Why the i-th counter (wide, before this request) has no room, exactly; nil: it has.
local function judge(i, w, eh, el, bh, bl)
  local mode, at, limits = sub(modes, i, i), 0, nil
  for text in string.gmatch(ARGV[7], '[^;]+') do
    at = at + 1
    if at == i then limits = text break end
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

local small = byte(hold, 2) == 49
local at, sure_at = find(hold, '\n', 1, true) + 1, 1
local reserved, would, full = 0, 0, 0
local writes, after = {}, {}
local fresh
for i = 1, C do
  local value, key = raw[i + 1], KEYS[2 + i]
  local code, state, sure_limit, sure_ceiling
  sure_limit, sure_ceiling, sure_at = unpacked('<dd', sure_limits, sure_at)
  if small and (not value or #value == SMALL_BYTES) then
    local s, h, e, o, _, flags = 0, 0, 0, 0, 0, 0
    if value then s, h, e, o, _, flags = unpacked(SMALL, value) end
    local expected, bound, following = unpacked('<dd', hold, at)
    local held, exposed = h + expected, e + bound
    local promised = s + held
    -- Plenty of room is the usual case; anything else is judged exactly.
    if promised >= sure_limit or s + exposed >= sure_ceiling then
      local eh, el = halves(expected)
      local bh, bl = halves(bound)
      code = judge(i, wide(value), eh, el, bh, bl)
    end
    if promised < EXACT and exposed < EXACT then
      if flags < ADMITTED then flags = flags + ADMITTED end
      state = pack(SMALL, s, held, exposed, o + 1, promised, flags)
      at = following
    end
  end
  if not state then
    local eh, el, bh, bl, following = entry(hold, at)
    local w = wide(value)
    code = judge(i, w, eh, el, bh, bl)
    at = following
    add(w, 2, eh, el)
    add(w, 3, bh, bl)
    add(w, 4, 0, 1)
    w[9], w[10] = w[1], w[2]
    add(w, 5, w[3], w[4])
    if w[12] < ADMITTED then w[12] = w[12] + ADMITTED end
    if over(w) then full = i end
    state = packed(w)
  end
  if code then
    if byte(modes, i) == 111 then                -- observe
      if would == 0 then would = i end
    elseif code == 'reserved' then
      if reserved == 0 then reserved = i end
    else
      return {'refused', code, i, changes, joined(raw, 2)}
    end
  end
  if not value then
    fresh = fresh or {}
    fresh[#fresh + 1] = key
  end
  after[i], writes[2 * i - 1], writes[2 * i] = state, key, state
end
if reserved > 0 then return {'refused', 'reserved', reserved, changes, joined(raw, 2)} end
if full > 0 then return {'overflow', KEYS[2 + full]} end

write(writes)
for _, key in ipairs(fresh or {}) do keep(key) end
call('SET', hold_key, hold)
call('ZADD', KEYS[2], now_s * 1000 + floor(tonumber(time[2]) / 1000), id)
return {'admitted', '', would, changes, joined(after, 1)}
