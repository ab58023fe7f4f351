// Tables whose rows lead to a page: a click anywhere on the row, j, k and Enter.
import { typing } from "./app.js";

const rows = () => [...document.querySelectorAll("tbody tr[data-open]")];
const selected = () => document.querySelector('tbody tr[aria-selected="true"]');

document.addEventListener("click", (event) => {
  const row = event.target.closest("tbody tr[data-open]");
  if (row && !event.target.closest("a, button")) location.assign(row.dataset.open);
});
document.addEventListener("keydown", (event) => {
  if (typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Enter" && selected() && !event.target.closest("a, button, summary")) location.assign(selected().dataset.open);
  const by = { j: 1, k: -1 }[event.key];
  if (!by) return;
  const all = rows();
  const next = all[Math.max(0, Math.min(all.length - 1, all.indexOf(selected()) + by))];
  selected()?.setAttribute("aria-selected", "false");
  next?.setAttribute("aria-selected", "true");
  next?.scrollIntoView({ block: "nearest" });
  // Focus goes along: it is seen and heard where one is, and Enter opens that row.
  next?.querySelector("[data-row]")?.focus({ preventScroll: true });
});
