-- The reference: all counters have room, then all are held. KEYS: counters; ARGV: amount and limit of each.
for i, key in ipairs(KEYS) do
  local counter = redis.call('HMGET', key, 'spent', 'held')
  if (counter[1] or 0) + (counter[2] or 0) + ARGV[2 * i - 1] > tonumber(ARGV[2 * i]) then
    return i
  end
end
for i, key in ipairs(KEYS) do
  redis.call('HINCRBY', key, 'held', ARGV[2 * i - 1])
end
return 0
