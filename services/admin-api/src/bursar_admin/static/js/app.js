// What every page does: theme, menus, copying, search, times.
import "./csv.js";
import "./sorting.js";
import { writeTimes } from "./times.js";

const YEAR_S = 31_536_000;
const CLOCK_EVERY_MS = 15_000;
const TOAST_MS = 1600;

function keep(name, value) {
  document.cookie = `${name}=${value}; path=/; max-age=${YEAR_S}; samesite=strict`;
}

/** A sentence at the lower edge for a moment. */
export function toast(text) {
  const element = document.getElementById("toast");
  if (!element) return;
  element.textContent = text;
  element.classList.add("shown");
  setTimeout(() => element.classList.remove("shown"), TOAST_MS);
}

function nextTheme() {
  const root = document.documentElement;
  const order = { system: "light", light: "dark", dark: "system" };
  const theme = order[root.dataset.theme] ?? "system";
  root.dataset.theme = theme;
  keep("bursar_theme", theme);
  const button = document.querySelector("[data-theme-toggle]");
  button.setAttribute("aria-label", `Theme: ${theme}`);
  toast(theme === "system" ? "Theme: as the system" : `Theme: ${theme}`);
  document.dispatchEvent(new CustomEvent("bursar:theme"));
}

function toggleRail(open) {
  const rail = document.getElementById("rail");
  const button = document.querySelector("[data-rail]");
  if (!rail || !button) return;
  rail.classList.toggle("open", open);
  button.setAttribute("aria-expanded", String(rail.classList.contains("open")));
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied");
  } catch {
    toast("This browser does not let pages copy");
  }
}

document.addEventListener("click", (event) => {
  const target = event.target instanceof Element ? event.target : null;
  if (!target) return;
  const copied = target.closest("[data-copy]");
  if (copied) {
    event.stopPropagation();
    copy(copied.dataset.copy);
  }
  if (target.closest("[data-theme-toggle]")) nextTheme();
  if (target.closest("[data-rail]")) toggleRail();
  else if (!target.closest("#rail")) toggleRail(false);
  for (const menu of document.querySelectorAll("details[data-menu][open]")) {
    if (!menu.contains(target)) menu.open = false;
  }
  if (!target.closest(".search")) document.getElementById("found")?.replaceChildren();
}, true);

export function typing(event) {
  return event.target instanceof Element && event.target.closest("input, textarea, select, [contenteditable]");
}

document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !typing(event) && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    document.getElementById("search")?.focus();
  }
  if (event.key === "Escape") {
    for (const menu of document.querySelectorAll("details[data-menu][open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
    if (event.target.id === "search") event.target.blur();
    document.getElementById("found")?.replaceChildren();
    toggleRail(false);
  }
});

// Filters that say nothing do not stand in the address.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!(form instanceof HTMLFormElement) || form.method !== "get") return;
  const empty = [...form.elements].filter((field) => field.name && field.value === "");
  for (const field of empty) field.disabled = true;
  setTimeout(() => { for (const field of empty) field.disabled = false; });
});
document.addEventListener("htmx:afterSwap", (event) => writeTimes(event.target));
document.addEventListener("htmx:sendError", (event) => {
  event.target.replaceChildren(Object.assign(document.createElement("p"), {
    className: "failure", textContent: "The gateway does not answer. It may be restarting; reload the page in a moment.",
  }));
});
writeTimes();
setInterval(() => { if (!document.hidden) writeTimes(); }, CLOCK_EVERY_MS);
