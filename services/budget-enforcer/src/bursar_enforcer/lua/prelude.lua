-- Shared by every script of the ledger (joined in front of each when loaded).
--
-- All keys carry the hash tag {bursar}, so they lie in one slot, the slot of KEYS[1], and behind it the number of this
-- format: a ledger of another format is not seen at all, so that Redis looks empty and is derived anew from the log.
--   {bursar}:2:policy      hash: version ids -> versions; !open -> run id of the server on which admission is open;
--                          !changes -> raised with every governance event
--   {bursar}:2:open        sorted set: request ids of open holds, by the time (ms) of their last renewal
--   {bursar}:2:ends        sorted set: keys of counters, by the time (s) from which they may be deleted
--   {bursar}:2:c:<counter> a counter: six doubles, little-endian: spent, held, exposed, open holds, promised, flags.
--                          promised: spent + held after the last admission; flags: 1 the opening balance was booked,
--                          2 there was an admission
--   {bursar}:2:h:<id>      an open hold: "o", 1 or 2, a blank, a digit for each counter (1: strict), a blank, the counters
--                          joined by blanks, a line feed, expected and bound of each counter as doubles, the event so
--                          far; a closed one: its rank, for rank 1 followed by the amounts charged (as in decide.lua) and
--                          the counters
--
-- MONEY: whole doubles below 2^52 ($4.5 million), and sums of two of them, are exact. Where an amount of a counter is
-- larger, every amount of it is kept as two doubles instead, billions and the rest (96 bytes in place of 48; a hold says
-- 2 in place of 1), exact up to 9.2e18. Scripts have a short way for the first kind and one for any, `wide`. No
-- `tostring`, `..` or cjson on an amount: they write 14 digits and lose the rest.

local HOLD = '{bursar}:2:h:'
local COUNTER = '{bursar}:2:c:'
local ENDS = '{bursar}:2:ends'
local UNIT_AT = #COUNTER + 1    -- where a counter's key names its unit
local SMALL, LARGE = '<dddddd', '<dddddddddddd'
local SMALL_BYTES = 48
local OPEN = 111                -- first byte of an open hold
local EXACT = 4503599627370496  -- 2^52
local BILLION = 1e9
local MOST = 9.2e9              -- billions; below the largest 64-bit integer; checked before the first write of a script
local CHUNK = 1000              -- keys of one MGET or MSET: Lua's stack takes 8,000
local DAY_S = 86400
local ADMITTED = 2              -- flag

local call, byte, sub, find, floor = redis.call, string.byte, string.sub, string.find, math.floor
local unpacked, pack = struct.unpack, struct.pack

-- Values of `first` and of KEYS from number `from` on, in one list; false where there is none.
local function read(first, from)
  if #KEYS - from < CHUNK then return call('MGET', first, unpack(KEYS, from)) end
  local out = {call('GET', first)}
  for at = from, #KEYS, CHUNK do
    local some = call('MGET', unpack(KEYS, at, math.min(at + CHUNK - 1, #KEYS)))
    for i = 1, #some do out[#out + 1] = some[i] end
  end
  return out
end

-- Write keys and values, given in turn.
local function write(pairs_)
  local n = #pairs_
  if n == 0 then return end
  if n <= 2 * CHUNK then return call('MSET', unpack(pairs_)) end
  for at = 1, n, 2 * CHUNK do call('MSET', unpack(pairs_, at, math.min(at + 2 * CHUNK - 1, n))) end
end

-- Counters outlive their window: money 40 days (a late event of a month, overshoot report), the rest 8 days.
local function keep(key)
  local ends = tonumber(string.match(key, ':(%d+)$'))
  call('ZADD', ENDS, ends + (byte(key, UNIT_AT) == 110 and 40 or 8) * DAY_S, key)
end

-- Billions and the rest of a double.
local function halves(amount)
  local high = floor(amount / BILLION)
  return high, amount - high * BILLION
end

-- Any counter as twelve numbers, two for each amount.
local function wide(value)
  if not value then return {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} end
  if #value ~= SMALL_BYTES then return {unpacked(LARGE, value)} end
  local w, amounts = {}, {unpacked(SMALL, value)}
  for k = 1, 6 do w[2 * k - 1], w[2 * k] = halves(amounts[k]) end
  return w
end

-- Add to the k-th amount of a wide counter.
local function add(w, k, high, low)
  low = w[2 * k] + low
  local carried = floor(low / BILLION)
  w[2 * k - 1], w[2 * k] = w[2 * k - 1] + high + carried, low - carried * BILLION
end

-- Whether one of a wide counter's amounts is beyond what is counted.
local function over(w)
  return w[1] >= MOST or w[3] >= MOST or w[5] >= MOST
end

local function packed_large(w) return pack(LARGE, unpack(w, 1, 12)) end

-- Whether one of a wide counter's amounts needs two doubles.
local function is_large(w)
  for k = 1, 11, 2 do
    if w[k] > 4503598 or w[k] < -4503598 then return true end
  end
  return false
end

-- A wide counter as it is kept: small where every amount is.
local function packed(w)
  if is_large(w) then return packed_large(w) end
  local a = {}
  for k = 1, 6 do a[k] = w[2 * k - 1] * BILLION + w[2 * k] end
  return pack(SMALL, unpack(a, 1, 6))
end

-- Counters, in a list from number `from` on, for a reply: one string, all of them small, or all large.
local function joined(values, from)
  local large, out = false, {}
  for i = from, #values do
    local value = values[i] or packed(wide(false))
    if #value ~= SMALL_BYTES then large = true end
    out[i - from + 1] = value
  end
  if large then
    for i, value in ipairs(out) do out[i] = packed_large(wide(value)) end
  end
  return table.concat(out)
end

-- Expected and bound at `at` in a hold, as billions and rest, and where the next stand.
local function entry(hold, at)
  if byte(hold, 2) == 50 then return unpacked('<dddd', hold, at) end
  local expected, bound, following = unpacked('<dd', hold, at)
  local eh, el = halves(expected)
  local bh, bl = halves(bound)
  return eh, el, bh, bl, following
end

-- What an open hold holds: names in order, and for each {expected, bound} in halves.
local function entries_of(hold)
  local stop = find(hold, '\n', 1, true)
  local names, amounts, at = {}, {}, stop + 1
  for name in string.gmatch(string.match(sub(hold, 1, stop - 1), '^o%d %d* (.*)$'), '%S+') do
    local eh, el, bh, bl, following = entry(hold, at)
    names[#names + 1], amounts[name], at = name, {eh, el, bh, bl}, following
  end
  return names, amounts
end
