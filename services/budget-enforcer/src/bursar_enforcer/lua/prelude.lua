-- Shared by every script of the ledger (joined in front of each when loaded).
--
-- All keys carry the hash tag {bursar}, so they lie in one slot, the slot of KEYS[1].
--   {bursar}:policy      hash: version ids -> versions; !open -> run id of the server on which admission is open;
--                        !changes -> raised with every governance event
--   {bursar}:open        sorted set: request ids of open holds, by the time (ms) of their last renewal
--   {bursar}:h:<id>      an open hold: "o", its entries "<counter> <expected> <bound> <strict>;...", a line feed, the event
--                        so far; a closed one: its rank, for rank 1 followed by the amounts charged and the counters
--   {bursar}:c:<counter> hash: s spent, h held, e exposed, o open holds, l "<spent> <held> <added>" of the last
--                        admission, op set when the opening balance was booked
--
-- MONEY: amounts are decimal strings. From 2^52 on ($4.5 million) they are added by HINCRBY alone, exact in 64 bits. Below,
-- sums of two doubles are exact as well and are handed to HSET as numbers, which the server itself writes with all their
-- digits (as a 64-bit integer, or with %.17g): one command a counter instead of one a field. No `tostring`, `..` or
-- cjson on an amount that is a number: they write 14 digits and lose the rest.

local HOLD = '{bursar}:h:'
local COUNTER = '{bursar}:c:'
local MOST = 9.2e18         -- below the largest 64-bit integer; checked before the first write of a script
local EXACT = 4503599627370496  -- 2^52: whole doubles up to here are exact, sums of two as well
local DAY_S = 86400

local call = redis.call

-- The opposite of an amount given as a decimal string.
local function negated(amount)
  if amount == '0' then return amount end
  if string.sub(amount, 1, 1) == '-' then return string.sub(amount, 2) end
  return '-' .. amount
end

-- High and low part of a decimal string, base 10^9, as exact doubles.
local function parts(text)
  local sign = 1
  if string.sub(text, 1, 1) == '-' then sign, text = -1, string.sub(text, 2) end
  local n = #text
  if n <= 9 then return 0, sign * tonumber(text) end
  return sign * tonumber(string.sub(text, 1, n - 9)), sign * tonumber(string.sub(text, n - 8))
end

-- Whether a + b + c > limit, exactly, for decimal strings.
local function above(limit, a, b, c)
  local most = tonumber(limit)
  local over = tonumber(a) + tonumber(b) + tonumber(c) - most
  if most < EXACT or over > 65536 or over < -65536 then return over > 0 end
  local ah, al = parts(a)
  local bh, bl = parts(b)
  local ch, cl = parts(c)
  local mh, ml = parts(limit)
  return (ah + bh + ch - mh) * 1e9 + (al + bl + cl - ml) > 0
end

-- What HINCRBY answered, exactly: a reply beyond 2^52 lost digits on its way into Lua and is read again as text.
local function exactly(number, key, field)
  if number < EXACT and number > -EXACT then return number end
  return call('HGET', key, field)
end

-- Counters outlive their window: money 40 days (a late event of a month, overshoot report), the rest 8 days.
local function keep(key)
  local unit, ends = string.match(key, '^{bursar}:c:(%a):.*:(%d+)$')
  call('EXPIREAT', key, tonumber(ends) + (unit == 'n' and 40 or 8) * DAY_S)
end

-- What is known of a request: entries of its open hold, or else how it was closed.
local function record_of(key)
  local value = call('GET', key)
  if not value then return nil, nil end
  if string.byte(value) ~= 111 then return nil, value end
  return string.sub(value, 2, string.find(value, '\n', 2, true) - 1), nil
end
