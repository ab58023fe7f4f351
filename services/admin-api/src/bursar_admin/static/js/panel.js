// A list beside which one of its rows opens: a click anywhere on a row, j, k, Enter, Esc; the address names what is open.
import { typing } from "./app.js";

/** `parameter`: of the address. `part(id)`: where the panel's content is. */
export function listWithPanel({ body, panel, parameter, part }) {
  const rows = () => [...body.querySelectorAll("tr[data-open]")];
  const selected = () => body.querySelector('tr[aria-selected="true"]');

  function select(row) {
    selected()?.setAttribute("aria-selected", "false");
    if (!row) return;
    row.setAttribute("aria-selected", "true");
    row.scrollIntoView({ block: "nearest" });
  }

  function remember(id) {
    const here = new URL(location.href);
    if (id) here.searchParams.set(parameter, id);
    else here.searchParams.delete(parameter);
    history.replaceState(history.state, "", here);
  }

  function open(id) {
    panel.hidden = false;
    if (!panel.childElementCount) panel.append(document.getElementById("panel-loading").content.cloneNode(true));
    panel.dataset.opened = id;
    remember(id);
    select(rows().find((row) => row.dataset.open === id));
    window.htmx.ajax("GET", part(id), { target: panel, swap: "innerHTML" });
  }

  function close() {
    panel.hidden = true;
    panel.replaceChildren();
    delete panel.dataset.opened;
    remember("");
    select(null);
  }

  function step(by) {
    const all = rows();
    const next = all[Math.max(0, Math.min(all.length - 1, all.indexOf(selected()) + by))];
    if (!next) return;
    select(next);
    if (!panel.hidden) open(next.dataset.open);
  }

  body.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.target.closest("button")) return;
    const link = event.target.closest("a");
    if (link && !link.hasAttribute("data-row")) return;
    const row = event.target.closest("tr[data-open]");
    if (!row) return;
    event.preventDefault();
    open(row.dataset.open);
  });
  panel.addEventListener("click", (event) => {
    if (event.target.closest("[data-close]")) close();
  });
  document.addEventListener("keydown", (event) => {
    if (typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "Enter" && selected() && !event.target.closest("a, button, summary")) open(selected().dataset.open);
    else if (event.key === "Escape") close();
  });
  // What stands there when a row is replaced by later ones.
  document.addEventListener("htmx:afterSwap", () => {
    if (panel.dataset.opened) select(rows().find((row) => row.dataset.open === panel.dataset.opened));
  });
  if (panel.dataset.opened) open(panel.dataset.opened);
  else delete panel.dataset.opened;
  return { rows, selected, select, open, close };
}
