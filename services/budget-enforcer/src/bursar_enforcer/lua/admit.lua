-- Decide one request over all its counters: all have room and all are held, or nothing is written.
--
-- KEYS: policy, open holds, then one key per counter, narrowest owner first.
-- ARGV: version ids and versions of the chain, each joined by blanks; latest window start, earliest window end
--       (Unix s); per counter: mode, limit, ceiling; then the request's own: run id, request id, the hold as it is to be
--       kept, and joined by blanks: changes of the policy up to which the versions are known to be right, and its
--       amounts (decimal strings): expected, bound and strict nano-dollars, tokens without and with cache reads.
-- Modes: s standard, S strict, o observe, t tokens, T with cache reads, r requests. Ceiling: limit + max_overshoot.
local C = #KEYS - 2
local tail = 4 + 3 * C           -- last argument before the request's own
local id = ARGV[tail + 2]
local hold_key = HOLD .. id

local known, n_expected, n_bound, n_strict, tokens, all_tokens =
  string.match(ARGV[tail + 4], '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
if not known then return redis.error_reply('ERR not the figures of a request') end

local entries, closed = record_of(hold_key)
if closed then return {'gone', string.sub(closed, 1, 1)} end

local policy = call('HMGET', KEYS[1], '!open', '!changes')
local changes = policy[2] or '0'
local time = call('TIME')
local now_s = tonumber(time[1])
if not entries then
  if policy[1] ~= ARGV[tail + 1] then return {'closed', policy[1] or ''} end
  if changes ~= known then
    -- Something was changed since; perhaps nothing of this chain.
    local versions = string.gmatch(ARGV[2], '%S+')
    for version_id in string.gmatch(ARGV[1], '%S+') do
      if (call('HGET', KEYS[1], version_id) or '0') ~= versions() then return {'stale'} end
    end
  end
  if now_s < tonumber(ARGV[3]) or now_s >= tonumber(ARGV[4]) then return {'window', now_s} end
end

local state = {}
for i = 1, C do
  state[i] = call('HMGET', KEYS[2 + i], 's', 'h', 'e', 'o')
end

local function with_state(out)
  for i = 1, C do
    local c = state[i]
    local n = #out
    out[n + 1], out[n + 2], out[n + 3], out[n + 4] = c[1] or '0', c[2] or '0', c[3] or '0', c[4] or '0'
  end
  return out
end

if entries then return with_state({'again', entries, 0, changes}) end

local expects = {s = n_expected, o = n_expected, S = n_strict, t = tokens, T = all_tokens, r = '1'}
local bounds = {s = n_bound, o = n_bound, S = n_strict, t = tokens, T = all_tokens, r = '1'}

-- Why a counter has no room, or nil.
local function judge(mode, limit, ceiling, expected, bound, s, h, e, o)
  if mode == 'r' then return above(limit, s, h, expected) and 'spent' or nil end
  if above(limit, s, '1', '0') then return 'spent' end          -- spent >= limit
  local code
  if above(limit, s, expected, '0') then
    if (mode == 't' or mode == 'T') and s == '0' and above(limit, expected, '0', '0') then
      -- Larger than the whole limit: admitted alone in an untouched window, else it could never run.
      return o ~= '0' and 'reserved' or nil
    end
    return 'large'
  elseif above(limit, s, h, expected) then
    code = 'reserved'
  end
  if ceiling ~= '' then
    if mode == 'S' then
      if above(ceiling, s, bound, '0') then return 'large' end
      if above(ceiling, s, e, bound) then code = 'reserved' end
    elseif o ~= '0' and above(ceiling, s, e, bound) then
      code = 'reserved'
    end
  end
  return code
end

local reserved, would, full = 0, 0, 0
local adds, exposes = {r = 1}, {r = 1}           -- the same amounts as doubles
for mode, amount in pairs(expects) do adds[mode], exposes[mode] = tonumber(amount), tonumber(bounds[mode]) end
local MONEY = {s = true, S = true, o = true}    -- modes of budgets: what they spent beyond their limit is reported
local held, exposed = {}, {}                     -- after this request, as doubles
for i = 1, C do
  local at = 2 + 3 * i
  local mode, limit, ceiling = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local c, code = state[i], nil
  local spent, h, e = tonumber(c[1] or 0), tonumber(c[2] or 0) + adds[mode], tonumber(c[3] or 0) + exposes[mode]
  held[i], exposed[i] = h, e
  -- Plenty of room, as doubles can tell with certainty, is the usual case; anything near a limit is judged exactly.
  if spent + h + 65536 > tonumber(limit) or (ceiling ~= '' and spent + e + 65536 > tonumber(ceiling)) then
    code = judge(
      mode, limit, ceiling, expects[mode], bounds[mode], c[1] or '0', c[2] or '0', c[3] or '0', c[4] or '0'
    )
  end
  if code then
    if mode == 'o' then
      if would == 0 then would = i end
    elseif code == 'reserved' then
      if reserved == 0 then reserved = i end
    else
      return with_state({'refused', code, i, changes})
    end
  end
  if e > MOST or h > MOST then full = i end
end
if reserved > 0 then return with_state({'refused', 'reserved', reserved, changes}) end
if full > 0 then return {'overflow', KEYS[2 + full]} end

local out = {'admitted', '', would, changes}
for i = 1, C do
  local mode, key, c = ARGV[2 + 3 * i], KEYS[2 + i], state[i]
  local s, h, e = c[1], held[i], exposed[i]
  local o = tonumber(c[4] or 0) + 1              -- a count of requests, not money
  local last = MONEY[mode] and (s or '0') .. ' ' .. (c[2] or '0') .. ' ' .. expects[mode]
  if h >= EXACT or e >= EXACT then
    h = exactly(call('HINCRBY', key, 'h', expects[mode]), key, 'h')
    e = exactly(call('HINCRBY', key, 'e', bounds[mode]), key, 'e')
    call('HSET', key, 'o', o, 'l', last or '')
  elseif last then
    call('HSET', key, 'h', h, 'e', e, 'o', o, 'l', last)
  else
    call('HSET', key, 'h', h, 'e', e, 'o', o)
  end
  if not s then
    s = '0'
    call('HSET', key, 's', s)
    keep(key)
  end
  local n = 4 * i
  out[n + 1], out[n + 2], out[n + 3], out[n + 4] = s, h, e, o
end
call('SET', hold_key, ARGV[tail + 3])
call('ZADD', KEYS[2], now_s * 1000 + math.floor(tonumber(time[2]) / 1000), id)
return out
