-- Decide one request over all its counters: all have room and all are held, or nothing is written.
--
-- KEYS: policy, open holds, then one key per counter, narrowest owner first.
-- ARGV: count of versions, version ids, versions; latest window start, earliest window end (Unix s);
--       per counter: id, mode, limit, ceiling, which amount it expects, which amount bounds it;
--       run id, request id, hold entries, facts for the event, then the amounts (decimal strings).
-- Modes: s standard, S strict, o observe, t tokens, r requests. Ceiling: limit + max_overshoot, or empty.
local C = #KEYS - 2
local V = tonumber(ARGV[1])
local base = 3 + 2 * V           -- last argument before the counters'
local tail = base + 6 * C        -- last argument before the request's own
local hold_key = HOLD .. ARGV[tail + 2]

local held = call('HMGET', hold_key, 'st', 'h')
if held[1] then
  if held[1] ~= 'o' then return {'gone', held[1]} end
end

local policy = call('HMGET', KEYS[1], '!open', unpack(ARGV, 2, V + 1))
if not held[1] then
  if policy[1] ~= ARGV[tail + 1] then return {'closed', policy[1] or ''} end
  for i = 1, V do
    if (policy[i + 1] or '0') ~= ARGV[V + 1 + i] then return {'stale'} end
  end
end
local time = call('TIME')
local now_s = tonumber(time[1])
if not held[1] and (now_s < tonumber(ARGV[base - 1]) or now_s >= tonumber(ARGV[base])) then
  return {'window', now_s}
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

if held[1] then return with_state({'again', held[2], 0}) end

local reserved, would = 0, 0
for i = 1, C do
  local at = base + 6 * (i - 1)
  local mode, limit, ceiling = ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local expected, bound = ARGV[tail + 4 + ARGV[at + 5]], ARGV[tail + 4 + ARGV[at + 6]]
  local c = state[i]
  local s, h, e, o = c[1] or '0', c[2] or '0', c[3] or '0', c[4] or '0'
  if tonumber(h) + tonumber(expected) > MOST or tonumber(e) + tonumber(bound) > MOST then
    return {'overflow', i}
  end
  local code
  if mode == 'r' then
    if above(limit, s, h, expected) then code = 'spent' end
  elseif above(limit, s, '1', '0') then
    code = 'spent'               -- spent >= limit
  elseif above(limit, s, expected, '0') then
    if mode == 't' and tonumber(s) == 0 and above(limit, expected, '0', '0') then
      -- Larger than the whole limit: admitted alone in an untouched window, else it could never run.
      if o ~= '0' then code = 'reserved' end
    else
      code = 'large'
    end
  elseif above(limit, s, h, expected) then
    code = 'reserved'
  end
  if ceiling ~= '' and code ~= 'spent' and code ~= 'large' then
    if mode == 'S' then
      if above(ceiling, s, bound, '0') then
        code = 'large'
      elseif above(ceiling, s, e, bound) then
        code = 'reserved'
      end
    elseif o ~= '0' and above(ceiling, s, e, bound) then
      code = 'reserved'
    end
  end
  if code then
    if mode == 'o' then
      if would == 0 then would = i end
    elseif code == 'reserved' then
      if reserved == 0 then reserved = i end
    else
      return with_state({'refused', code, i})
    end
  end
end
if reserved > 0 then return with_state({'refused', 'reserved', reserved}) end

local out = {'admitted', '', would}
for i = 1, C do
  local at = base + 6 * (i - 1)
  local key, c = KEYS[2 + i], state[i]
  local expected, bound = ARGV[tail + 4 + ARGV[at + 5]], ARGV[tail + 4 + ARGV[at + 6]]
  local h = call('HINCRBY', key, 'h', expected)
  local e = call('HINCRBY', key, 'e', bound)
  local o = call('HINCRBY', key, 'o', 1)
  if c[1] then
    call('HSET', key, 'ls', c[1], 'lh', c[2] or '0', 'la', expected)
  else
    call('HSET', key, 's', '0', 'ls', '0', 'lh', '0', 'la', expected)
    keep(key, ARGV[at + 1])
  end
  local n = #out
  out[n + 1], out[n + 2], out[n + 3], out[n + 4] = c[1] or '0', exactly(h, key, 'h'), exactly(e, key, 'e'), o
end
call('HSET', hold_key, 'st', 'o', 'h', ARGV[tail + 3], 'ev', ARGV[tail + 4])
call('ZADD', KEYS[2], now_s * 1000 + math.floor(tonumber(time[2]) / 1000), ARGV[tail + 2])
return out
