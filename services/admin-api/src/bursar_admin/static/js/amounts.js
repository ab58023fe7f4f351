// Amounts as people type them.

/** A number as typed, without its separators of thousands (`1,234.5`); null where a comma is something else, such as
    the decimal point of other countries: `0,05` is not 5. */
export function plain(text) {
  const typed = text.trim();
  if (!typed.includes(",")) return typed;
  return /^-?\$?[1-9]\d{0,2}(,\d{3})+(\.\d*)?$/.test(typed) ? typed.replaceAll(",", "") : null;
}

/** Dollars as typed in nano-dollars, to the last digit; null where it is no amount. */
export function nanoDollars(text) {
  const found = /^(-?)\$?(\d{1,9})(?:\.(\d{0,9}))?$/.exec(plain(text) ?? "");
  if (!found) return null;
  const size = BigInt(found[2]) * 1_000_000_000n + BigInt((found[3] ?? "").padEnd(9, "0"));
  return found[1] ? -size : size;
}
