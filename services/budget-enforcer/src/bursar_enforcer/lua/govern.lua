-- Bring one event of the governance topic into Redis, if the position is still the one it was judged at.
--
-- KEYS: policy, positions, documents, hmacs, providers.
-- ARGV: position expected, position after it, count of versions, then id and version each; then (all empty where the
--       event was rejected or is no entity) document field, document or empty, entity id, hmac or empty,
--       "provider" or empty; then opening balances: counter, amount (billions and rest, as
--       doubles), ...
if call('HGET', KEYS[1], '!open') == 'deleting' then return {'closed', 'deleting'} end
local position = call('HGET', KEYS[2], 'governance') or ''
if position ~= ARGV[1] then return {'moved', position} end
call('HSET', KEYS[2], 'governance', ARGV[2])
local V = tonumber(ARGV[3])
if V > 0 then call('HINCRBY', KEYS[1], '!changes', 1) end
for i = 1, V do call('HSET', KEYS[1], ARGV[2 + 2 * i], ARGV[3 + 2 * i]) end
local at = 3 + 2 * V
local field, document, entity_id, hmac, kind = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
if field ~= '' then
  if document == '' then call('HDEL', KEYS[3], field) else call('HSET', KEYS[3], field, document) end
  if kind == 'provider' then
    call('HINCRBY', KEYS[1], '!providers', 1)
    if document == '' then call('HDEL', KEYS[5], entity_id) else call('HSET', KEYS[5], entity_id, document) end
  elseif kind == 'virtual_key' then
    local old = call('HGET', KEYS[4], 'of:' .. entity_id)
    if old and call('HGET', KEYS[4], old) == entity_id then call('HDEL', KEYS[4], old) end
    if hmac == '' then
      call('HDEL', KEYS[4], 'of:' .. entity_id)
    else
      call('HSET', KEYS[4], hmac, entity_id, 'of:' .. entity_id, hmac)
    end
  end
end
local time = tonumber(call('TIME')[1])
for i = at + 6, #ARGV, 2 do
  local key = COUNTER .. ARGV[i]
  local ends = tonumber(string.match(key, ':(%d+)$'))
  -- Once per counter, for as long as the counter is kept; the same document comes again with every later change.
  if ends + 40 * DAY_S > time then
    local value = call('GET', key)
    local w = wide(value)
    if w[12] % 2 == 0 then
      local high, low = unpacked('<dd', ARGV[i + 1])
      w[12] = w[12] + 1
      if w[1] + high + 1 < MOST then add(w, 1, high, low) end
      call('SET', key, packed(w))
      if not value then keep(key) end
    end
  end
end
return {'applied'}
