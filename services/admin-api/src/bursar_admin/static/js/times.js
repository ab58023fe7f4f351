// Times in the viewer's zone: relative or of the clock, with the exact moment in the title.
import { ago } from "./numbers.js";

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const DATE = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const MOMENT = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hour12: false });
const EXACT = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const MIDNIGHT = CLOCK.format(new Date(2000, 0, 1));
const DAY_MS = 86_400_000;
const HOUR_MS = 3_600_000;

function written(then, how, now) {
  // Of a list of requests: what is an hour old is told apart by its clock only.
  if (how === "row") return now - then < HOUR_MS ? ago(then, now) : written(then, "clock", now);
  if (how === "clock") return now - then < DAY_MS ? CLOCK.format(then) : MOMENT.format(then);
  if (how === "date") return DATE.format(then);
  // Where a window of another zone ends: a day alone would be a lie by some hours.
  if (how === "reset") return CLOCK.format(then) === MIDNIGHT ? DATE.format(then) : MOMENT.format(then);
  if (how === "moment") return MOMENT.format(then);
  return now - then < 7 * DAY_MS ? ago(then, now) : DATE.format(then);
}

/** Write every <time data-time> below an element. */
export function writeTimes(root = document) {
  const now = Date.now();
  for (const element of root.querySelectorAll("time[data-time]")) {
    const then = Date.parse(element.dateTime);
    if (Number.isNaN(then)) continue;
    const text = written(then, element.dataset.time, now);
    if (element.textContent !== text) element.textContent = text;
    if (!element.title) element.title = EXACT.format(then);
  }
}
