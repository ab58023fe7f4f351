// A request's cost put right: the arithmetic while one types, a second look at amounts that look like a misplaced point,
// and the panel again once the correction shows.
import { toast } from "./app.js";
import { nanoDollars } from "./forms.js";
import { exactMoney, money } from "./numbers.js";
import { writeTimes } from "./times.js";

const TIMES_MORE = 10n;
const LITTLE_NUSD = 10_000_000n; // a cent: what costs less is soon ten times as much
// Analytics have it a moment after the log: so often, and so many times, it is asked for.
const ASK_EVERY_MS = 500;
const MOST_TRIES = 20;

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
  form.querySelector("button.primary").disabled = dangerous && !sure.querySelector("input").checked;
}

document.addEventListener("input", (event) => {
  const form = event.target.closest?.("form[data-correct]");
  if (form) write(form);
});

async function read(form) {
  const answer = await fetch(`/api/logs/${encodeURIComponent(form.dataset.request)}`);
  return answer.ok ? (await answer.json()).log : null;
}

/** Where somebody else corrected it since the form was opened, the difference would be another one than was shown. */
async function still(form) {
  try {
    const record = await read(form);
    if (!record || record.cost_nusd === Number(form.dataset.now)) return true;
    form.querySelector('[data-problem=""]').textContent =
      `It was corrected by somebody else meanwhile, and costs ${money(record.cost_nusd)} now. Nothing was done: cancel, and look again.`;
    return false;
  } catch {
    return true; // what is sent next says that nobody answers
  }
}

// Before forms.js sends it.
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("form[data-correct]") || form.dataset.looked) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  const cost = form.elements.cost_nusd;
  if (cost.value.trim() !== "" && nanoDollars(cost.value) === null) {
    // The server is told nano-dollars, and would speak of those.
    form.querySelector('[data-problem="cost_nusd"]').textContent = "Is not an amount of dollars, such as 12.50, with up to nine decimals.";
    cost.setAttribute("aria-invalid", "true");
    cost.focus();
    return;
  }
  form.dataset.looked = "yes";
  if (await still(form)) form.requestSubmit();
  delete form.dataset.looked;
}, true);

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
  for (const field of form.elements) field.disabled = true;
  form.querySelector(".actions").replaceWith(waiting);
  shown(form);
});
