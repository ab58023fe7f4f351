// What another limit would mean, said while it is typed: from what was spent and the pace of the window so far, and from
// the requests of the last days.
import { plain } from "./amounts.js";
import { money } from "./numbers.js";
import { writePreview } from "./preview.js";

const NUSD = 1e9;
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short" });
const HOUR = new Intl.DateTimeFormat(undefined, { weekday: "short", hour: "2-digit", minute: "2-digit", hour12: false });
const ASK_AFTER_MS = 250;
const timers = new WeakMap();
const HOURS_BELOW_MS = 2 * 86_400_000;

function sentence(form, limit, observed) {
  const spent = Number(form.dataset.spent);
  const pace = Number(form.dataset.pace || 0);
  const end = Date.parse(form.dataset.end);
  const left = limit - spent;
  const refuses = observed ? "pass and are counted" : "are refused";
  if (left <= 0) return `${money(spent)} is spent already: from the next request on, requests ${refuses} until the reset.`;
  const now = Date.now();
  const reached = pace > 0 ? now + (left / pace) * 1000 : Infinity;
  const at = (moment) => (end - now < HOURS_BELOW_MS ? HOUR : DAY).format(moment);
  if (reached < end) return `${money(left)} left. At the pace so far it is spent by ${at(reached)}; requests ${refuses} from then until the reset.`;
  return `${money(left)} left.${pace > 0 ? " At the pace so far it lasts until the reset." : ""}`;
}

function preview(form) {
  const place = form.querySelector("[data-preview]");
  const field = form.querySelector('[name$=".max_limit"]');
  const text = plain(field.value) ?? "";
  const dollars = Number(text);
  const known = form.dataset.spent !== "" && text !== "" && Number.isFinite(dollars) && dollars >= 0;
  const observed = form.querySelector('[name$=".enforcement"]').value === "observe";
  place.textContent = known ? sentence(form, dollars * NUSD, observed) : "";
  const last = form.querySelector("[data-preview-days]");
  if (!last) return;
  clearTimeout(timers.get(form));
  if (text === "" || !Number.isFinite(dollars) || dollars < 0) {
    last.dataset.asked = last.textContent = "";
    return;
  }
  const question = { ...JSON.parse(form.dataset.question), max_limit: text };
  timers.set(form, setTimeout(() => writePreview(last, question, observed ? "observe" : ""), ASK_AFTER_MS));
}

document.addEventListener("input", (event) => {
  const form = event.target.closest?.("form[data-limit-preview]");
  if (form) preview(form);
});
document.addEventListener("htmx:afterSettle", () => {
  for (const form of document.querySelectorAll("form[data-limit-preview]:not([data-begun])")) {
    form.dataset.begun = "";
    preview(form);
  }
});
