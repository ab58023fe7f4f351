-- Open, close and mark the ledger. KEYS: policy, open holds, positions, outboxes.  ARGV: what, then its arguments.
--   open <run id>        admission is open on that server; not while a rebuild deletes or replays
--   mark <token>         a clean stop: only with no hold open; closes admission and leaves the token
--   unmark <token> <run id>  a clean start: the token is taken away and admission opens
--   delete               a rebuild begins: nothing is answered, and the topics are read from their beginnings
--   replay               the counters are gone: everything but admission is answered again
--   skip <field> <expected> <following>  move a topic's position past a record that has no effect
--   lost                 a rebuild that died: as after any loss, admission opens when the topics are caught up with
local what, state = ARGV[1], call('HGET', KEYS[1], '!open') or ''
if what == 'open' then
  if state == 'deleting' or (state == 'replaying' and ARGV[3] ~= 'rebuilt') then return {'refused', state} end
  call('HDEL', KEYS[1], '!clean')
  call('HSET', KEYS[1], '!open', ARGV[2])
elseif what == 'mark' then
  if state == 'deleting' or state == 'replaying' or call('ZCARD', KEYS[2]) > 0 then return {'refused', state} end
  call('HSET', KEYS[1], '!clean', ARGV[2])
  call('HDEL', KEYS[1], '!open')
elseif what == 'unmark' then
  if call('HGET', KEYS[1], '!clean') ~= ARGV[2] or state ~= '' then return {'refused', state} end
  call('HDEL', KEYS[1], '!clean')
  call('HSET', KEYS[1], '!open', ARGV[3])
elseif what == 'delete' then
  call('HSET', KEYS[1], '!open', 'deleting')
  call('HDEL', KEYS[1], '!clean')
  call('DEL', KEYS[3], KEYS[4])
elseif what == 'replay' then
  if state ~= 'deleting' then return {'refused', state} end
  call('HSET', KEYS[1], '!open', 'replaying')
elseif what == 'lost' then
  if state ~= 'replaying' then return {'refused', state} end
  call('HDEL', KEYS[1], '!open')
elseif what == 'skip' then
  if state == 'deleting' then return {'closed', state} end
  local position = call('HGET', KEYS[3], ARGV[2]) or ''
  if position ~= ARGV[3] then return {'moved', position} end
  call('HSET', KEYS[3], ARGV[2], ARGV[4])
else
  return {'refused', 'unknown'}
end
return {'done', what}
