// The log as it happens: rows that come in, unless somebody reads.
import { typing } from "./app.js";
import "./columns.js";
import { listWithPanel } from "./panel.js";
import { writeTimes } from "./times.js";

const REFRESH_EVERY_MS = 1000;
const SUMS_EVERY_MS = 5000;
const MOST_LIVE_ROWS = 200;
// The stream is told by the log, the rows come from ClickHouse a moment later: so often they are asked for again.
const MOST_TRIES = 12;

const box = document.querySelector("[data-log]");
const body = document.getElementById("log-rows");
const panel = document.getElementById("panel");
const pill = document.querySelector("[data-new]");
const pauseButton = document.querySelector("[data-pause]");
const live = document.querySelector("[data-live]");
// Rows that begin elsewhere than with the newest: new ones are counted, not shown.
const sorted = box.dataset.sorted !== "";
let waiting = 0;
let paused = false;
let refreshing = false;
let asked = false; // somebody asked for what is being read
let source = null;
let timer = null;
let summaryTimer = null;
let tries = 0;
// Ids that the stream named and the rows do not show yet.
const announced = new Set();

const { rows, selected, close } = listWithPanel({
  body, panel, parameter: "request", part: (id) => `/fragments/logs/${encodeURIComponent(id)}`,
});

function reading() {
  return paused || sorted || box.scrollTop > 4 || window.scrollY > 120 || !panel.hidden || Boolean(selected());
}

// -- live ----------------------------------------------------------------------------------------------------------

function state(name) {
  live.hidden = !box.dataset.stream;
  live.dataset.live = name;
  live.lastElementChild.textContent = { on: "Live", paused: "Paused", off: "Offline" }[name];
}

function showWaiting() {
  pill.hidden = waiting === 0;
  pill.textContent = `${waiting} new`;
}

/** The sums above the table follow, but not with every request. */
function summarise() {
  summaryTimer ??= setTimeout(() => {
    summaryTimer = null;
    if (!document.hidden) window.htmx.trigger("#log-summary", "refresh");
  }, SUMS_EVERY_MS);
}

/** Read the first page again. `following`: by itself, not because somebody asked: then what is read meanwhile stays. */
async function refresh(following = false) {
  asked ||= !following;
  if (refreshing) return;
  refreshing = true;
  try {
    const known = new Set(rows().map((row) => row.dataset.open));
    const answer = await fetch(body.getAttribute("hx-get"), { headers: { "HX-Request": "true", "HX-Current-URL": location.href } });
    if (!answer.ok) return;
    const fresh = document.createElement("template");
    fresh.innerHTML = `<table><tbody>${await answer.text()}</tbody></table>`;
    const found = fresh.content.querySelector("tbody");
    const fresher = [...found.querySelectorAll("tr[data-open]")].filter((row) => known.size && !known.has(row.dataset.open));
    if (!asked && reading()) {
      waiting = Math.max(waiting, fresher.length);
      showWaiting();
      return;
    }
    const before = rows().length;
    const names = new Set([...found.querySelectorAll("tr[data-open]")].map((row) => row.dataset.open));
    const older = before > names.size ? [...body.children].filter((row) => !names.has(row.dataset.open)).slice(0, MOST_LIVE_ROWS) : [];
    for (const row of fresher) row.classList.add("fresh");
    if (older.length) found.querySelector("tr.more")?.remove();
    body.replaceChildren(...found.children, ...older);
    window.htmx.process(body);
    writeTimes(body);
    waiting = 0;
    showWaiting();
    summarise();
    const shown = rows().map((row) => row.dataset.open);
    const oldest = shown.reduce((least, id) => (id < least ? id : least), shown[0] ?? "");
    for (const id of announced) if (sorted || id < oldest || shown.includes(id)) announced.delete(id);
  } finally {
    refreshing = false;
    asked = false;
  }
  if (announced.size && tries < MOST_TRIES) {
    tries += 1;
    setTimeout(() => { if (!reading()) refresh(true); }, REFRESH_EVERY_MS);
  } else {
    announced.clear();
    tries = 0;
  }
}

function arrived(event) {
  waiting += 1;
  try {
    if (announced.size < MOST_LIVE_ROWS) announced.add(JSON.parse(event.data).log.id);
  } catch { /* it is counted, and shown with the next one */ }
  tries = 0;
  if (reading()) showWaiting();
  else if (!timer) {
    timer = setTimeout(() => {
      timer = null;
      if (!reading()) refresh(true);
      else showWaiting();
    }, REFRESH_EVERY_MS);
  }
}

function listen() {
  if (source || !box.dataset.stream) return;
  source = new EventSource(box.dataset.stream);
  source.onopen = () => state(paused ? "paused" : "on");
  source.onerror = () => { if (source?.readyState !== EventSource.OPEN) state("off"); };
  source.addEventListener("log", arrived);
}

function hangUp() {
  source?.close();
  source = null;
}

// A browser keeps few connections to one place: a tab nobody looks at gives its own back.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) hangUp();
  else {
    listen();
    if (!reading()) refresh(true);
  }
});
window.addEventListener("pagehide", hangUp);

function pause(on) {
  paused = on;
  pauseButton.setAttribute("aria-pressed", String(on));
  pauseButton.lastElementChild.textContent = on ? "Resume" : "Pause";
  state(on ? "paused" : source?.readyState === EventSource.OPEN ? "on" : "off");
  if (!on && waiting) refresh();
}

pauseButton.addEventListener("click", () => pause(!paused));
pill.addEventListener("click", () => {
  close();
  box.scrollTop = 0;
  window.scrollTo(0, 0);
  refresh();
});

document.addEventListener("keydown", (event) => {
  if (typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " " && !event.target.closest("button, summary, a")) {
    event.preventDefault();
    pause(!paused);
  }
});
state("off");
listen();
