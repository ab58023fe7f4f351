// Figures that follow what happens: when requests come, parts that can load again do so, at most every few seconds.
const REFRESH_EVERY_MS = 5000;
const live = document.querySelector("[data-live]");
let source = null;
let timer = null;

function state(name) {
  live.hidden = false;
  live.dataset.live = name;
  live.lastElementChild.textContent = name === "on" ? "Live" : "Offline";
}

/** Nothing is taken away from under a reader's hands. */
function inHand(part) {
  return Boolean(part.querySelector("form, details[open]"));
}

function arrived() {
  timer ??= setTimeout(() => {
    timer = null;
    if (document.hidden) return;
    for (const part of document.querySelectorAll("[data-refreshes]")) {
      // One that is on its way, as the first one may be, is not followed by another.
      if (inHand(part) || part.classList.contains("htmx-request")) continue;
      part.dataset.following = "";
      window.htmx.trigger(part, "refresh");
    }
    document.dispatchEvent(new CustomEvent("bursar:refresh"));
  }, REFRESH_EVERY_MS);
}

// What was opened while the answer was on its way stays as well; what a form asked for itself is shown.
document.addEventListener("htmx:beforeSwap", (event) => {
  const part = event.detail.requestConfig?.elt;
  if (part?.dataset.following !== undefined && inHand(part)) event.detail.shouldSwap = false;
});
document.addEventListener("htmx:afterRequest", (event) => {
  const part = event.detail.requestConfig?.elt;
  if (part) delete part.dataset.following;
});

function listen() {
  if (source) return;
  source = new EventSource("/api/logs/stream");
  source.onopen = () => state("on");
  source.onerror = () => { if (source?.readyState !== EventSource.OPEN) state("off"); };
  source.addEventListener("log", arrived);
}

function hangUp() {
  source?.close();
  source = null;
}

document.addEventListener("visibilitychange", () => (document.hidden ? hangUp() : listen()));
window.addEventListener("pagehide", hangUp);
state("off");
listen();
