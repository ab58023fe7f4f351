// A request's cost put right: the arithmetic while one types, a second look at amounts that look like a misplaced point,
// and the panel again once the correction shows.
import { nanoDollars } from "./amounts.js";
import { toast } from "./app.js";
import "./forms.js";
import { exactMoney, money } from "./numbers.js";
import { writeTimes } from "./times.js";

const TIMES_MORE = 10n;
const LITTLE_NUSD = 10_000_000n; // a cent: what costs less is soon ten times as much
// Analytics have it a moment after the log: so often, and so many times, it is asked for.
const ASK_EVERY_MS = 500;
const MOST_TRIES = 20;
const LOOK_MS = 10_000; // for one answer; without it the server, which knows the log, decides

const larger = (one, other) => (one > other ? one : other);
const exact = (nusd) => exactMoney(nusd).split(" ")[0].replace(/(\.\d\d\d*?)0+$/, "$1");

function write(form) {
  const now = BigInt(form.dataset.now);
  const after = nanoDollars(form.elements.cost_nusd.value);
  const known = after !== null;
  const change = known ? after - now : 0n;
  form.querySelector("[data-change]").textContent = known ? `${change > 0n ? "+" : ""}${exact(change)}` : "–";
  form.querySelector("[data-after]").textContent = known ? exact(after) : "–";
  const sure = form.querySelector("[data-sure]");
  const dangerous = known && after > TIMES_MORE * larger(now, LITTLE_NUSD);
  const asked = dangerous ? String(after) : "";
  if (sure.dataset.asked !== asked) sure.querySelector("input").checked = false;
  sure.dataset.asked = asked;
  sure.hidden = !dangerous;
  if (dangerous) {
    const times = now > 0n ? `${(after / now).toLocaleString("en-US")} times` : "instead of";
    sure.querySelector("[data-sure-text]").textContent = `Yes: ${money(after)}, ${times} the ${money(now)} that it costs now, is what is meant.`;
  }
  form.querySelector("button.primary").disabled = Boolean(form.dataset.sending) || (dangerous && !sure.querySelector("input").checked);
}

document.addEventListener("input", (event) => {
  const form = event.target.closest?.("form[data-correct]");
  if (form) write(form);
});

async function read(form) {
  const signal = AbortSignal.timeout(LOOK_MS);
  const answer = await fetch(`/api/logs/${encodeURIComponent(form.dataset.request)}`, { signal });
  return answer.ok ? (await answer.json()).log : null;
}

function tell(form, text) {
  form.querySelector('[data-problem=""]').textContent = text;
}

/** The difference would be another one than was shown. */
function tellChanged(form, costs) {
  const was = exact(form.dataset.now);
  tell(form, `It was corrected by somebody else meanwhile, and costs ${exact(costs)} now, not ${was}. Nothing was done: cancel, and look again.`);
}

/** Whether the form may be sent, as far as analytics know; the server holds the cost that was shown against the log. */
async function still(form) {
  try {
    const record = await read(form);
    if (!record || record.cost_nusd === Number(form.dataset.now)) return true;
    // Maybe an answer was lost: what is sent again counts once. Whose they all are is not always known; the server does.
    const own = form.elements.correction_id.value;
    const made = record.corrections_made;
    if (made.length < record.corrections || made.some((each) => each.correction_id === own)) return true;
    tellChanged(form, record.cost_nusd);
    return false;
  } catch {
    return true; // what is sent next says that nobody answers
  }
}

/** Whether the fields can be sent as they are; says beside them why not. */
function usable(form) {
  write(form);
  const cost = form.elements.cost_nusd;
  if (cost.value.trim() !== "" && nanoDollars(cost.value) === null) {
    // The server is told nano-dollars, and would speak of those.
    form.querySelector('[data-problem="cost_nusd"]').textContent =
      "Is not an amount of dollars, such as 12.50, with up to nine decimals. Commas separate thousands only.";
    cost.setAttribute("aria-invalid", "true");
    cost.focus();
    return false;
  }
  return !form.querySelector("button.primary").disabled;
}

// Before forms.js sends it. Pressed again while it looks, or while it is sent, it is not sent again.
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("form[data-correct]") || form.dataset.looked) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  if (form.dataset.looking || form.dataset.sending || form.dataset.done || !usable(form)) return;
  form.dataset.looking = "yes";
  try {
    // What was typed meanwhile is what is sent, and is looked at as well.
    if (!(await still(form)) || !form.isConnected || !usable(form)) return;
    form.dataset.looked = "yes";
    form.requestSubmit();
  } finally {
    delete form.dataset.looked;
    delete form.dataset.looking;
  }
}, true);

document.addEventListener("bursar:refused", (event) => {
  const form = event.target;
  if (!form.matches("form[data-correct]") || event.detail.status !== 409) return;
  const { error } = event.detail;
  if (error.field === "expected_cost_nusd") tellChanged(form, error.cost_nusd);
  else if (error.field === "correction_id") tell(form, "What this form sent before was recorded; this was not. Cancel, and look again.");
  else return;
  event.preventDefault();
});

/** The cost in the request's row of the list, which keeps its place. */
async function cell(form) {
  const row = document.querySelector(`#log-rows tr[data-open="${CSS.escape(form.dataset.request)}"]`);
  if (!row) return;
  const answer = await fetch(form.dataset.cell, { headers: { "HX-Request": "true", "HX-Current-URL": location.href } });
  if (!answer.ok) return;
  const fresh = document.createElement("template");
  fresh.innerHTML = `<table><tbody>${await answer.text()}</tbody></table>`;
  const cost = fresh.content.querySelector('[data-col="cost"]');
  if (cost) row.querySelector('[data-col="cost"]').replaceWith(cost);
  writeTimes(row);
}

async function shown(form) {
  const panel = document.getElementById("panel");
  for (let tries = 0; tries < MOST_TRIES && form.isConnected; tries += 1) {
    const record = await read(form).catch(() => null);
    if (record && record.corrections > Number(form.dataset.count) && record.corrections_made.length) {
      if (!form.isConnected) return;
      await window.htmx.ajax("GET", `/fragments/logs/${encodeURIComponent(form.dataset.request)}`, { target: panel, swap: "innerHTML" });
      panel.querySelector(".correct button")?.focus({ preventScroll: true });
      panel.querySelector("[data-corrected]")?.scrollIntoView({ block: "nearest" });
      window.htmx.trigger("#log-summary", "refresh");
      await cell(form);
      return;
    }
    await new Promise((done) => setTimeout(done, ASK_EVERY_MS));
  }
  if (form.isConnected) form.querySelector("[data-waiting]").textContent = "It is recorded. Analytics are behind; it shows here once they have caught up.";
}

document.addEventListener("bursar:saved", (event) => {
  const form = event.target;
  if (!form.matches("form[data-correct]")) return;
  event.preventDefault();
  toast(`${event.detail.message.replace(/\.$/, "")}, booked in ${event.detail.correction.booked_month}`);
  const waiting = Object.assign(document.createElement("p"), { className: "preview", textContent: "Recorded. It shows here in a moment." });
  waiting.dataset.waiting = "";
  waiting.setAttribute("role", "status");
  form.dataset.done = "yes";
  for (const field of form.elements) field.disabled = true;
  form.querySelector(".actions").replaceWith(waiting);
  shown(form);
});
