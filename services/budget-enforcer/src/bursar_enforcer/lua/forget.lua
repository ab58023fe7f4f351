-- Delete counters that are past their keeping.  KEYS: ends of counters.  ARGV: how many at most.
local due = call('ZRANGEBYSCORE', KEYS[1], '-inf', call('TIME')[1], 'LIMIT', 0, ARGV[1])
if #due > 0 then
  call('UNLINK', unpack(due))
  call('ZREM', KEYS[1], unpack(due))
end
return {'done', #due}
