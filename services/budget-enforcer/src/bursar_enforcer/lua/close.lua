-- Close a hold with what its request cost. A closing has a rank (0 released, 1 expired, 2 recorded): a higher rank
-- replaces a lower one by the difference, an equal or lower one changes nothing. Works without the hold, too.
--
-- KEYS: policy, open holds, positions, outboxes.
-- ARGV: request id, rank, amounts n t T r (decimal strings), counters to charge (joined by blanks),
--       seconds to remember the closing; and for a record of the usage topic:
--       position field, position expected, position after it, outbox field, outbox sequence.
local id, rank = ARGV[1], ARGV[2]
local amount = {n = ARGV[3], t = ARGV[4], T = ARGV[5], r = ARGV[6]}
local consumed = ARGV[9]
local key = HOLD .. id

if call('HGET', KEYS[1], '!open') == 'deleting' then return {'closed', 'deleting'} end

local repeated = false
if consumed then
  local position = call('HGET', KEYS[3], consumed) or ''
  if position ~= ARGV[10] then return {'moved', position} end
  if ARGV[12] ~= '' then
    local last = call('HGET', KEYS[4], ARGV[12])
    repeated = last and tonumber(last) >= tonumber(ARGV[13])
  end
end

-- The record is consumed whatever follows: an amount that cannot be booked must not hold up the topic.
local function moved()
  if consumed then
    call('HSET', KEYS[3], consumed, ARGV[11])
    if ARGV[12] ~= '' and not repeated then call('HSET', KEYS[4], ARGV[12], ARGV[13]) end
  end
end

if repeated then
  moved()
  return {'seen'}
end

local entries, closed = record_of(key)
local was = closed and string.sub(closed, 1, 1) or ''
if closed and rank <= was then
  moved()
  if consumed and was == '2' then call('EXPIRE', key, ARGV[8]) end
  return {'kept', was}
end

-- The last steps of every closing.
local function remember()
  if rank == '1' then
    call('SET', key, table.concat({'1', ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]}, ' '), 'EX', ARGV[8])
  else
    call('SET', key, rank, 'EX', ARGV[8])
  end
  if entries then call('ZREM', KEYS[2], id) end
end

-- The usual case: an open hold, charged to the very counters it names, every figure exact as a double. Anything else
-- has written nothing yet and goes on below.
if entries then
  local N, counters, S, H, E, O = 0, {}, {}, {}, {}, {}
  local plus = {n = tonumber(ARGV[3]), t = tonumber(ARGV[4]), T = tonumber(ARGV[5]), r = tonumber(ARGV[6])}
  local exact = true
  for counter, e, b in string.gmatch(entries, '([^%s;]+) (%d+) (%d+) %d') do
    N = N + 1
    counters[N] = counter
    local c = call('HMGET', COUNTER .. counter, 's', 'h', 'e', 'o')
    if not c[1] or not c[2] then exact = false break end
    local s, h, x = tonumber(c[1]), tonumber(c[2]), tonumber(c[3])
    if s >= EXACT or h >= EXACT or x >= EXACT then exact = false break end
    s = s + plus[string.sub(counter, 1, 1)]
    if s >= EXACT then exact = false break end
    S[N], H[N], E[N], O[N] = s, h - tonumber(e), x - tonumber(b), tonumber(c[4]) - 1
  end
  if exact and table.concat(counters, ' ') == ARGV[7] then
    moved()
    local out = {'closed_now', was}
    for i = 1, N do
      local s, h, e, o = S[i], H[i], E[i], O[i]
      call('HSET', COUNTER .. counters[i], 's', s, 'h', h, 'e', e, 'o', o)
      local n = 5 * i - 3
      out[n + 1], out[n + 2], out[n + 3], out[n + 4], out[n + 5] = counters[i], s, h, e, o
    end
    remember()
    return out
  end
end

-- Counters in the order charged; those a hold names beside them are only freed.
local names, expected, bound, before, charge = {}, {}, {}, {}, {}
for counter in string.gmatch(ARGV[7], '%S+') do
  if not charge[counter] then
    names[#names + 1] = counter
    charge[counter] = amount[string.sub(counter, 1, 1)]
  end
end
local function named(counter)
  if not charge[counter] then
    names[#names + 1] = counter
    charge[counter] = '0'
  end
end
if entries then
  for counter, e, b in string.gmatch(entries, '([^%s;]+) (%d+) (%d+) %d') do
    named(counter)
    expected[counter], bound[counter] = e, b
  end
elseif was == '1' then
  local old, charged = {}, nil
  old.n, old.t, old.T, old.r, charged = string.match(closed, '^1 (%S+) (%S+) (%S+) (%S+) ?(.*)$')
  for counter in string.gmatch(charged, '%S+') do
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
local out = {'closed_now', was}
for i, counter in ipairs(names) do
  local k, c = COUNTER .. counter, state[i]
  local s, h, e, o = c[1] or '0', c[2] or '0', c[3] or '0', c[4] or '0'
  if expected[counter] and c[2] then
    h = exactly(call('HINCRBY', k, 'h', negated(expected[counter])), k, 'h')
    e = exactly(call('HINCRBY', k, 'e', negated(bound[counter])), k, 'e')
    o = call('HINCRBY', k, 'o', -1)
  end
  if before[counter] and c[1] then s = exactly(call('HINCRBY', k, 's', negated(before[counter])), k, 's') end
  if charge[counter] ~= '0' or not c[1] then s = exactly(call('HINCRBY', k, 's', charge[counter]), k, 's') end
  if not c[1] then keep(k) end
  local n = 5 * i - 3
  out[n + 1], out[n + 2], out[n + 3], out[n + 4], out[n + 5] = counter, s, h, e, o
end
remember()
return out
