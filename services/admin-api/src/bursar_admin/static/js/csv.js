// A table as it is seen, as a file: columns that show, rows that are loaded, amounts to the last digit.
const NUSD_DIGITS = 9;

function dollars(nusd) {
  const sign = nusd.startsWith("-") ? "-" : "";
  const digits = nusd.replace(/\D/g, "").padStart(NUSD_DIGITS + 1, "0");
  return `${sign}${digits.slice(0, -NUSD_DIGITS)}.${digits.slice(-NUSD_DIGITS)}`;
}

/** What a cell says, to the last digit. */
export function value(cell) {
  const moment = cell.querySelector("time[datetime]");
  if (moment) return moment.dateTime;
  const figure = cell.querySelector(".num[title]");
  // At list prices, for nobody paid: what it cost is nothing, and the column may be added up.
  if (figure?.querySelector("small")) return "0";
  const nusd = figure && /\(([-\d,]+) nano-dollars\)/.exec(figure.title);
  if (nusd) return dollars(nusd[1]);
  if (figure && /^-?[\d,]+$/.test(figure.title)) return figure.title.replaceAll(",", "");
  const copied = cell.querySelector("[data-copy]");
  if (copied) return copied.dataset.copy;
  const link = cell.querySelector("a[title]");
  return (link ? link.title : cell.textContent).replace(/\s+/g, " ").trim();
}

/** Quoted; what a spreadsheet would take for a formula is marked as text. */
function field(text) {
  const safe = /^[=+@\t\r\n]|^-(?!\d+(\.\d+)?$)/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function seen(cell) {
  return cell.offsetParent !== null && !cell.hasAttribute("data-aside");
}

export function tableAsCsv(table) {
  const rows = [[...table.querySelectorAll("thead th")].filter(seen).map((cell) => cell.textContent.replace(/[↑↓]/g, "").trim())];
  for (const row of table.querySelectorAll("tbody tr:not(.more)")) {
    const cells = [...row.cells].filter(seen);
    if (cells.length && cells[0].colSpan === 1) rows.push(cells.map(value));
  }
  return rows.map((row) => row.map(field).join(",")).join("\r\n") + "\r\n";
}

document.addEventListener("click", (event) => {
  const button = event.target instanceof Element && event.target.closest("[data-csv]");
  const table = button && document.querySelector(button.dataset.csv);
  if (!table) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([tableAsCsv(table)], { type: "text/csv" }));
  link.download = button.dataset.file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
});
