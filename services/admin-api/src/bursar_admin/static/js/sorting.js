// Tables that are on the page whole (table[data-sorts]) are sorted in place by their heads: one direction, the other, and
// as they came. Those with an id keep it in the address (`sorted=turns.8.desc`), which so can be shared.
// Lists that come in pages are sorted by the server instead.
import { value } from "./csv.js";
import { UNKNOWN } from "./numbers.js";

const PARAMETER = "sorted";
const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

/** What a cell is sorted by: data-sort, else what a CSV has of it. Empty: unknown, and last in either direction. */
function keyOf(cell) {
  const text = cell.dataset.sort ?? value(cell);
  return text === UNKNOWN ? "" : text;
}

function compare(one, other, numbers, sign) {
  if (one === "" || other === "") return Number(one === "") - Number(other === "");
  return sign * (numbers ? Number.parseFloat(one) - Number.parseFloat(other) : collator.compare(one, other));
}

/** Tables and how they are sorted, as the address says it. */
function asked() {
  const found = new Map();
  for (const part of (new URL(location.href).searchParams.get(PARAMETER) ?? "").split(",")) {
    const [name, column, order] = part.split(".");
    if (name && (order === "asc" || order === "desc")) found.set(name, [Number(column), order]);
  }
  return found;
}

function remember(table, column, order) {
  if (!table.id) return;
  const all = asked();
  if (order) all.set(table.id, [column, order]);
  else all.delete(table.id);
  const here = new URL(location.href);
  const text = [...all].map(([name, [place, way]]) => `${name}.${place}.${way}`).join(",");
  if (text) here.searchParams.set(PARAMETER, text);
  else here.searchParams.delete(PARAMETER);
  history.replaceState(history.state, "", here);
}

function sort(table, column, order) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const numbers = heads[column].classList.contains("right");
  const rows = [...body.rows];
  rows.forEach((row, place) => { row.dataset.place ??= String(place); });
  const plain = (one, other) => Number(one.dataset.place) - Number(other.dataset.place);
  const keys = new Map(rows.map((row) => [row, order && row.cells[column] ? keyOf(row.cells[column]) : ""]));
  const sign = order === "desc" ? -1 : 1;
  rows.sort((one, other) => (order ? compare(keys.get(one), keys.get(other), numbers, sign) : 0) || plain(one, other));
  body.append(...rows);
  heads.forEach((head, place) => {
    if (place === column && order) head.setAttribute("aria-sort", `${order}ending`);
    else head.removeAttribute("aria-sort");
    const arrow = head.querySelector(".arrow");
    if (arrow) arrow.textContent = place === column && order ? (order === "asc" ? " ↑" : " ↓") : "";
  });
}

function prepare(table) {
  if (table.dataset.sorts === "ready" || table.tBodies[0].rows.length < 2) return;
  table.dataset.sorts = "ready";
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (head.hasAttribute("data-aside") || !head.textContent.trim()) return;
    const arrow = Object.assign(document.createElement("span"), { className: "arrow" });
    arrow.setAttribute("aria-hidden", "true");
    const button = Object.assign(document.createElement("button"), { type: "button", className: "sort", title: "Sort by this" });
    button.append(...head.childNodes, arrow);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.classList.contains("right") ? "desc" : "asc";
      const now = { ascending: "asc", descending: "desc" }[head.getAttribute("aria-sort")];
      const order = !now ? first : now === first ? (first === "asc" ? "desc" : "asc") : "";
      sort(table, column, order);
      remember(table, column, order);
    });
  });
  const [column, order] = (table.id && asked().get(table.id)) || [];
  if (order && table.tHead.rows[0].cells[column]?.querySelector(".sort")) sort(table, column, order);
}

function prepareAll() {
  for (const table of document.querySelectorAll("table[data-sorts]")) prepare(table);
}

document.addEventListener("htmx:afterSwap", prepareAll);
prepareAll();
