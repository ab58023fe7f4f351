// Amounts as people read them. pages/numbers.py says the same; one table tests both.
// Amounts of money are nano-dollars: a number, a BigInt or its digits (beyond 2^53 only the latter two are exact).

export const UNKNOWN = "–";
const NUSD = 1_000_000_000n;
const STEPS = [[10n ** 12n, "T"], [10n ** 9n, "B"], [10n ** 6n, "M"], [1000n, "k"]];

function whole(value) {
  return typeof value === "bigint" ? value : typeof value === "string" ? BigInt(value) : BigInt(Math.round(value));
}

function grouped(digits) {
  return digits.replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

/** numerator / denominator to `digits` decimals, half to even, as text. */
function rounded(numerator, denominator, digits) {
  const scaled = numerator * 10n ** BigInt(digits);
  let quotient = scaled / denominator;
  const twice = (scaled % denominator) * 2n;
  if (twice > denominator || (twice === denominator && quotient % 2n === 1n)) quotient += 1n;
  const text = quotient.toString().padStart(digits + 1, "0");
  return digits ? `${grouped(text.slice(0, -digits))}.${text.slice(-digits)}` : grouped(text);
}

function short(numerator, denominator, digits) {
  for (let index = 0; index < STEPS.length; index += 1) {
    const [size, letter] = STEPS[index];
    if (numerator < size * denominator) continue;
    const text = rounded(numerator, denominator * size, digits);
    if (index && text.startsWith("1,000")) {
      return rounded(numerator, denominator * STEPS[index - 1][0], digits) + STEPS[index - 1][1];
    }
    return text + letter;
  }
  return rounded(numerator, denominator, digits);
}

/** `$1,234.56`; below a cent as many digits as matter. */
export function money(nusd) {
  if (nusd === null || nusd === undefined) return UNKNOWN;
  const value = whole(nusd);
  const sign = value < 0n ? "-" : "";
  const size = value < 0n ? -value : value;
  if (size === 0n || size >= NUSD / 100n) return `${sign}$${rounded(size, NUSD, 2)}`;
  const digits = size.toString().length;
  let kept = size;
  if (digits > 2) {
    const cut = 10n ** BigInt(digits - 2);
    kept = BigInt(rounded(size, cut, 0)) * cut;
  }
  return `${sign}$0.${kept.toString().padStart(9, "0").replace(/0+$/, "")}`;
}

/** Every nano-dollar: for tooltips and detail pages. */
export function exactMoney(nusd) {
  if (nusd === null || nusd === undefined) return "unknown";
  const value = whole(nusd);
  const size = value < 0n ? -value : value;
  return `${value < 0n ? "-" : ""}$${rounded(size, NUSD, 9)} (${value < 0n ? "-" : ""}${grouped(size.toString())} nano-dollars)`;
}

/** For the one number of a card: as money, from a million on `$1.25M`. */
export function bigMoney(nusd) {
  if (nusd === null || nusd === undefined) return UNKNOWN;
  const value = whole(nusd);
  const size = value < 0n ? -value : value;
  return size < 1_000_000n * NUSD ? money(value) : `${value < 0n ? "-" : ""}$${short(size, NUSD, 2)}`;
}

/** For axes and narrow places: `$0`, `$12`, `$3.4k`, `$0.05`. */
export function axisMoney(nusd) {
  if (nusd === null || nusd === undefined) return UNKNOWN;
  const value = whole(nusd);
  const size = value < 0n ? -value : value;
  if (size < 1000n * NUSD) return money(value).replace(/\.00$/, "");
  return `${value < 0n ? "-" : ""}$${short(size, NUSD, 1)}`;
}

/** `950`, `12.4k`, `3.1M`: tokens and requests; the exact number belongs into the title. */
export function count(number) {
  if (number === null || number === undefined) return UNKNOWN;
  const value = whole(number);
  const size = value < 0n ? -value : value;
  return (value < 0n ? "-" : "") + (size < 1000n ? size.toString() : short(size, 1n, 1));
}

/** `12,431` */
export function exactCount(number) {
  if (number === null || number === undefined) return "unknown";
  const value = whole(number);
  return (value < 0n ? "-" : "") + grouped((value < 0n ? -value : value).toString());
}

/** `840 ms`, `1.2 s`, `2 min 5 s`, `3 h 4 min` */
export function spanMs(ms) {
  if (ms === null || ms === undefined) return UNKNOWN;
  const all = Math.round(ms);
  if (all < 1000) return `${all} ms`;
  if (all < 59950) return `${rounded(BigInt(all), 1000n, 1)} s`;
  const seconds = Math.floor((all + 500) / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** `just now`, `3 min ago`, `2 h ago`, `5 d ago` */
export function ago(thenMs, nowMs) {
  const seconds = Math.floor((nowMs - thenMs) / 1000);
  if (seconds < 10) return "just now";
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  }
  return `${seconds} s ago`;
}

/** The end of an id: those made one after the other differ there. */
export function shortId(identifier) {
  return identifier.length <= 10 ? identifier : `…${identifier.slice(-8)}`;
}

const FAMILIES = [["opus", 1], ["sonnet", 5], ["haiku", 4]];

/** The colour a name has on every page: of its family, or FNV-1a over UTF-8, 32 bits. */
export function category(name) {
  for (const [family, index] of FAMILIES) if (name.startsWith("claude-") && name.includes(family)) return index;
  let digest = 2166136261;
  for (const byte of new TextEncoder().encode(name)) digest = Math.imul(digest ^ byte, 16777619) >>> 0;
  return digest % 8;
}

const CATEGORIES = 8;

/** A colour for each of some owners beside each other: its own (`known`, else by its name), or the next free one where
 * two would look alike. */
export function colours(names, known = []) {
  const taken = new Set();
  return names.map((name, at) => {
    let index = known[at] ?? category(name);
    for (let tries = 0; taken.has(index) && tries < CATEGORIES; tries += 1) index = (index + 1) % CATEGORIES;
    taken.add(index);
    return index;
  });
}
