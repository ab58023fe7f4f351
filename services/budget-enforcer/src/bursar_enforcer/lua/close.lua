-- Close a hold with what its request cost. A closing has a rank (0 released, 1 expired, 2 recorded): a higher rank
-- replaces a lower one by the difference, an equal or lower one changes nothing. Works without the hold, too.
--
-- KEYS: policy, open holds, positions, outboxes.
-- ARGV: request id, rank, amounts n t T r (decimal strings), counters to charge (joined by blanks),
--       seconds to remember the closing, and for a record of the usage topic (else empty):
--       position field, position expected, position after it, outbox field, outbox sequence.
local id, rank = ARGV[1], tonumber(ARGV[2])
local amount = {n = ARGV[3], t = ARGV[4], T = ARGV[5], r = ARGV[6]}
local consumed = ARGV[9] ~= ''
local key = HOLD .. id

if call('HGET', KEYS[1], '!open') == 'deleting' then return {'closed', 'deleting'} end

local repeated = false
if consumed then
  local position = call('HGET', KEYS[3], ARGV[9]) or ''
  if position ~= ARGV[10] then return {'moved', position} end
  if ARGV[12] ~= '' then
    local last = call('HGET', KEYS[4], ARGV[12])
    repeated = last and tonumber(last) >= tonumber(ARGV[13])
  end
end

-- The record is consumed whatever follows: an amount that cannot be booked must not hold up the topic.
local function moved()
  if consumed then
    call('HSET', KEYS[3], ARGV[9], ARGV[11])
    if ARGV[12] ~= '' and not repeated then call('HSET', KEYS[4], ARGV[12], ARGV[13]) end
  end
end

if repeated then
  moved()
  return {'seen'}
end

local record = call('HMGET', key, 'st', 'h', 'x')
local was = record[1]
if was and was ~= 'o' and rank <= tonumber(was) then
  moved()
  if consumed and was == '2' then call('EXPIRE', key, ARGV[8]) end
  return {'kept', was}
end

-- Counters in the order charged; those a hold names beside them are only freed.
local names, expected, bound, before, charge = {}, {}, {}, {}, {}
local function named(counter)
  if not expected[counter] then
    names[#names + 1] = counter
    expected[counter], bound[counter], before[counter], charge[counter] = '0', '0', '0', '0'
  end
end
for counter in string.gmatch(ARGV[7], '%S+') do
  named(counter)
  charge[counter] = amount[string.sub(counter, 1, 1)]
end
local open = was == 'o'
local freed = {}
if open then
  for counter, e, b in string.gmatch(record[2], '([^%s;]+) (%d+) (%d+) %d') do
    named(counter)
    freed[counter], expected[counter], bound[counter] = true, e, b
  end
elseif was == '1' then
  local old = {}
  old.n, old.t, old.T, old.r = string.match(record[3], '(%S+) (%S+) (%S+) (%S+)')
  for counter in string.gmatch(record[2], '%S+') do
    named(counter)
    before[counter] = old[string.sub(counter, 1, 1)]
  end
end

local state = {}
for i, counter in ipairs(names) do
  local c = call('HMGET', COUNTER .. counter, 's', 'h', 'e', 'o')
  state[i] = c
  if tonumber(c[1] or '0') + tonumber(charge[counter]) > MOST then
    moved()
    return {'overflow', counter}
  end
end

moved()
local out = {'closed_now', was or ''}
for i, counter in ipairs(names) do
  local k, c = COUNTER .. counter, state[i]
  if freed[counter] and c[2] then
    call('HINCRBY', k, 'h', negated(expected[counter]))
    call('HINCRBY', k, 'e', negated(bound[counter]))
    call('HINCRBY', k, 'o', -1)
  end
  if before[counter] ~= '0' and c[1] then call('HINCRBY', k, 's', negated(before[counter])) end
  call('HINCRBY', k, 's', charge[counter])
  if not c[1] then keep(k, counter) end
  c = call('HMGET', k, 's', 'h', 'e', 'o')
  local n = #out
  out[n + 1] = counter
  out[n + 2], out[n + 3], out[n + 4], out[n + 5] = c[1] or '0', c[2] or '0', c[3] or '0', c[4] or '0'
end
if was then call('DEL', key) end
if rank == 1 then
  call('HSET', key, 'st', '1', 'h', ARGV[7], 'x', table.concat({ARGV[3], ARGV[4], ARGV[5], ARGV[6]}, ' '))
else
  call('HSET', key, 'st', ARGV[2])
end
call('EXPIRE', key, ARGV[8])
if open then call('ZREM', KEYS[2], id) end
return out
