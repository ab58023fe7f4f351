// The form of an allocation: fields of its kind only, who bears a part by one choice, what the parts come to.
import { plain } from "./amounts.js";
import { money } from "./numbers.js";

const WHOLE = 1_000_000;
const DAYS = 30;
const DAY_S = 86_400;
const kinds = document.querySelector('select[name="kind"]');
const fixed = document.querySelector("[data-kind]");
const list = document.querySelector('[data-rows="parts"]');
const sum = document.querySelector("[data-sum]");
const key = document.querySelector('select[name="virtual_key_id"]');
const spent = new Map();

const kind = () => fixed?.dataset.kind ?? kinds.value;

function fit() {
  for (const element of document.querySelectorAll("form [data-kinds]")) {
    const on = element.dataset.kinds.split(" ").includes(kind());
    element.hidden = !on;
    if (element instanceof HTMLFieldSetElement) element.disabled = !on;
  }
}

/** A team and a customer are told apart by the name of the field. */
function name(select) {
  const group = select.selectedOptions[0]?.parentElement;
  const field = group instanceof HTMLOptGroupElement ? group.dataset.field : "team_id";
  select.name = select.name.replace(/[a-z_]+$/, field);
}

const rows = () => [...list.children];
const value = (row, suffix) => row.querySelector(`[name$=".${suffix}"]`)?.value.trim() ?? "";
const bearer = (row) => row.querySelector("[data-bearer]").selectedOptions[0]?.textContent.trim() ?? "";

function weight(text) {
  return /^\d{1,3}(\.\d{0,4})?$/.test(text) ? Math.round(Number(text) * 10_000) : null;
}

function percent(weight) {
  return `${(weight / 10_000).toFixed(4).replace(/\.?0+$/, "")} %`;
}

function dollars() {
  const text = plain(document.querySelector('[name="amount"]').value) ?? "";
  return text !== "" && Number.isFinite(Number(text)) ? Number(text) * 1e9 : null;
}

function shares(whole, weights, what) {
  if (whole === null || whole === 0 || rows().length > 6) return "";
  const told = rows().map((row, at) => `${bearer(row)} ${money(Math.round((whole * weights[at]) / WHOLE))}`);
  return ` ${what}: ${told.join(", ")}`;
}

async function say() {
  if (!list) return;
  const chosen = rows().every((row) => row.querySelector("[data-bearer]").value);
  if (kind() === "fee") {
    const seats = rows().map((row) => value(row, "seats"));
    const all = seats.every((text) => /^\d+$/.test(text)) ? seats.reduce((total, text) => total + Number(text), 0) : null;
    const each = dollars();
    sum.textContent = all !== null && each !== null ? `${all.toLocaleString("en-US")} seat${all === 1 ? "" : "s"} at ${money(each)}: ${money(all * each)} a month.` : "";
    return;
  }
  const weights = rows().map((row) => weight(value(row, "percent")));
  if (weights.some((each) => each === null)) {
    sum.textContent = "";
    return;
  }
  const total = weights.reduce((all, each) => all + each, 0);
  const left = WHOLE - total;
  if (kind() === "commitment") {
    const gap = left === 0 ? "" : left > 0 ? `; ${percent(left)} is nobody's yet` : `; ${percent(-left)} too much`;
    sum.textContent = `Together ${percent(total)}${gap}.${left === 0 && chosen ? shares(dollars(), weights, "A month") : ""}`;
    return;
  }
  const text = left < 0 ? `Together ${percent(total)}; ${percent(-left)} too much.`
    : left === 0 ? "Together 100 %: nothing stays with the key's team."
      : `Together ${percent(total)}; ${percent(left)} stays with the key's team.`;
  sum.textContent = text;
  if (left < 0 || !chosen || !key?.value || sum.dataset.analytics === undefined) return;
  const cost = await costOf(key.value);
  if (sum.textContent === text) sum.textContent = text + shares(cost, weights, `Of the ${money(cost)} of its last ${DAYS} days`);
}

/** What a key cost of late, in nano-dollars; null where nobody knows. */
async function costOf(id) {
  if (!spent.has(id)) {
    const to = Math.floor(Date.now() / 1000);
    const query = new URLSearchParams({ key: id, from: to - DAYS * DAY_S, to, latency: "false" });
    try {
      const answer = await fetch(`/api/logs/stats?${query}`);
      spent.set(id, answer.ok ? (await answer.json()).stats.cost_nusd : null);
    } catch {
      return null;
    }
  }
  return spent.get(id);
}

document.addEventListener("change", (event) => {
  if (event.target === kinds) fit();
  if (event.target.matches?.("[data-bearer]")) name(event.target);
  say();
});
document.addEventListener("input", say);
document.addEventListener("bursar:rows", () => { fit(); say(); });
fit();
say();
