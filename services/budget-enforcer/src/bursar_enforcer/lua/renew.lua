-- Keep a hold alive, let its amounts follow the stream, keep the event known so far. Re-creates a hold Redis lost.
--
-- KEYS: policy, open holds.  ARGV: request id, hold entries "<counter> <expected> <bound> <strict>;...", event.
local key = HOLD .. ARGV[1]
if call('HGET', KEYS[1], '!open') == 'deleting' then return {'closed', 'deleting'} end
local kept, closed = record_of(key)
if closed then return {'gone', string.sub(closed, 1, 1)} end

local old_e, old_b = {}, {}
for counter, e, b in string.gmatch(kept or '', '([^%s;]+) (%d+) (%d+) %d') do
  old_e[counter], old_b[counter] = e, b
end
local entries = {}
for counter, e, b in string.gmatch(ARGV[2], '([^%s;]+) (%d+) (%d+) %d') do
  local c = call('HMGET', COUNTER .. counter, 's', 'h', 'e')
  if tonumber(c[2] or '0') + tonumber(e) > MOST or tonumber(c[3] or '0') + tonumber(b) > MOST then
    return {'overflow', counter}
  end
  entries[#entries + 1] = {counter, e, b, c[1], c[2]}
end

local out = {'renewed', ARGV[2]}
for _, entry in ipairs(entries) do
  local counter, e, b = entry[1], entry[2], entry[3]
  local k = COUNTER .. counter
  if old_e[counter] and entry[5] then
    if old_e[counter] ~= e then
      call('HINCRBY', k, 'h', negated(old_e[counter]))
      call('HINCRBY', k, 'h', e)
    end
    if old_b[counter] ~= b then
      call('HINCRBY', k, 'e', negated(old_b[counter]))
      call('HINCRBY', k, 'e', b)
    end
  else
    call('HINCRBY', k, 'h', e)
    call('HINCRBY', k, 'e', b)
    call('HINCRBY', k, 'o', 1)
    if not entry[4] then
      call('HSET', k, 's', '0')
      keep(k)
    end
  end
  old_e[counter] = nil
end
-- A counter the renewal no longer names is freed, so that held is always the sum over the open holds.
for counter, e in pairs(old_e) do
  local k = COUNTER .. counter
  if call('HEXISTS', k, 'h') == 1 then
    call('HINCRBY', k, 'h', negated(e))
    call('HINCRBY', k, 'e', negated(old_b[counter]))
    call('HINCRBY', k, 'o', -1)
  end
end
for i, entry in ipairs(entries) do
  local c = call('HMGET', COUNTER .. entry[1], 's', 'h', 'e', 'o')
  local n = 5 * i - 3
  out[n + 1], out[n + 2], out[n + 3], out[n + 4], out[n + 5] = entry[1], c[1] or '0', c[2] or '0', c[3] or '0', c[4] or '0'
end
call('SET', key, 'o' .. ARGV[2] .. '\n' .. ARGV[3])
local time = call('TIME')
call('ZADD', KEYS[2], tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000), ARGV[1])
return out
