// Forms of owners and keys: rows that come and go, a key's value shown once, deletions confirmed, previews.
import { plain } from "./amounts.js";
import "./forms.js";
import { writePreview } from "./preview.js";

const PREVIEW_AFTER_MS = 350;
const NAMED = ["name", "id", "for", "aria-describedby", "data-problem", "data-rows", "data-add", "data-null-if-empty"];

// -- rows of a list in the body ------------------------------------------------------------------------------------

/** The rows' places in the body are their places on the page, without gaps. Rows may have rows. */
function number(list) {
  const path = list.dataset.rows;
  const place = new RegExp(`${path.replaceAll(/[[\]]/g, "\\$&")}\\[(\\d+|__)\\]`, "g");
  [...list.children].forEach((row, index) => rename(row, place, `${path}[${index}]`));
}

function rename(row, from, to) {
  for (const element of row.querySelectorAll("*")) {
    for (const attribute of NAMED) {
      const text = element.getAttribute(attribute);
      if (text) element.setAttribute(attribute, text.replaceAll(from, to));
    }
  }
}

function add(name) {
  const list = document.querySelector(`[data-rows="${name}"]`);
  const made = document.getElementById(list.dataset.template ?? `new-${name}`).content.cloneNode(true);
  rename(made, "__list__", name);
  list.append(made);
  number(list);
  const row = list.lastElementChild;
  window.htmx.process(row);
  list.dispatchEvent(new CustomEvent("bursar:rows", { bubbles: true }));
  return row;
}

document.addEventListener("click", (event) => {
  const target = event.target instanceof Element ? event.target : null;
  const adding = target?.closest("[data-add]");
  if (adding) add(adding.dataset.add).querySelector("input:not([type=hidden]), select")?.focus();
  const removing = target?.closest("[data-remove]");
  if (removing) {
    const row = removing.closest("[data-row-of]");
    const list = row.parentElement;
    const next = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    number(list);
    list.dispatchEvent(new CustomEvent("bursar:rows", { bubbles: true }));
    (next?.querySelector("[data-remove]") ?? document.querySelector(`[data-add="${list.dataset.rows}"]`))?.focus();
  }
});

// -- a choice that lets other fields in or out ---------------------------------------------------------------------

function choose(select) {
  const group = document.getElementById(select.dataset.opens);
  const on = select.value === select.dataset.when;
  group.hidden = !on;
  group.disabled = !on;
  const kept = select.form.elements[select.dataset.fills];
  if (kept) kept.value = on ? "[]" : "null";
  const list = group.querySelector("[data-rows]");
  if (on && list && !list.children.length) add(list.dataset.rows);
}

for (const select of document.querySelectorAll("select[data-opens]")) {
  choose(select);
  select.addEventListener("change", () => choose(select));
}

// -- owners beyond those a choice lists -----------------------------------------------------------------------------

const FOUND_MOST = 50;
const LISTS = { team: "teams", customer: "customers", user: "users", virtual_key: "virtual_keys" };
const finding = new WeakMap();

/** Where options of a kind stand: within the choice, or within its group of that kind. */
function placesOf(field) {
  if (field.dataset.into) return [document.getElementById(field.dataset.into)];
  const wanted = `optgroup[data-field="${field.dataset.find}_id"]`;
  const template = [...field.form.querySelectorAll("template")].flatMap((each) => [...each.content.querySelectorAll(wanted)]);
  return [...field.form.querySelectorAll(wanted), ...template];
}

function offer(place, found) {
  const chosen = place.closest("select")?.selectedOptions[0];
  const kept = [...place.querySelectorAll("option")].filter((each) => each.value === "" || each === chosen);
  const options = found.filter((each) => kept.every((other) => other.value !== each.id))
    .map((each) => Object.assign(document.createElement("option"), { value: each.id, textContent: each.name }));
  place.replaceChildren(...kept, ...options);
}

async function find(field) {
  const text = field.value.trim();
  const said = field.nextElementSibling;
  const list = LISTS[field.dataset.find];
  const query = new URLSearchParams({ limit: FOUND_MOST, sort_by: "name", ...(text ? { text } : {}) });
  try {
    const answer = await fetch(`/api/governance/${list.replace("_", "-")}?${query}`);
    if (field.value.trim() !== text) return;
    const content = await answer.json();
    if (!answer.ok) throw new Error(content.error.message);
    for (const place of placesOf(field)) offer(place, content[list]);
    const total = content.total_count;
    said.textContent = total > FOUND_MOST ? `The first ${FOUND_MOST} of ${total} are in the choice below` : `${total} found, in the choice below`;
  } catch {
    said.textContent = "The gateway does not answer; nothing could be found";
  }
}

document.addEventListener("input", (event) => {
  const field = event.target.closest?.("[data-find]");
  if (!field) return;
  clearTimeout(finding.get(field));
  finding.set(field, setTimeout(() => find(field), PREVIEW_AFTER_MS));
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !event.target.closest?.("[data-find]")) return;
  event.preventDefault(); // looks, does not send the form
  find(event.target);
});

// -- what names a thing before it is destroyed -----------------------------------------------------------------------

document.addEventListener("input", (event) => {
  const field = event.target.closest?.("[data-confirm]");
  if (field) field.form.querySelector("[data-confirmed]").disabled = field.value !== field.dataset.confirm;
});

// -- a key's value, once -----------------------------------------------------------------------------------------------

const made = document.getElementById("key-made");

document.addEventListener("bursar:saved", (event) => {
  const key = event.detail.virtual_key;
  if (!made || !key?.value) return;
  event.preventDefault();
  for (const place of made.querySelectorAll("[data-text]")) {
    const text = place.dataset.text.replaceAll("{key}", key.value);
    place.textContent = text;
    const button = place.parentElement.querySelector("[data-copy]");
    if (button) button.dataset.copy = text;
  }
  for (const place of made.querySelectorAll("[data-key-name]")) place.textContent = key.name;
  const onward = made.querySelector("[data-onward]");
  if (onward) onward.href = `/governance/keys/${encodeURIComponent(key.id)}`;
  for (const element of document.querySelectorAll("[data-until-made]")) element.hidden = true;
  made.hidden = false;
  made.querySelector("h2").focus();
  window.scrollTo(0, 0);
});

// -- what a budget would have refused ----------------------------------------------------------------------------------

const timers = new WeakMap();

function field(row, name) {
  return row.querySelector(`[name$=".${name}"]`);
}

async function preview(row) {
  const place = row.querySelector("[data-preview]");
  const form = row.closest("form");
  const limit = plain(field(row, "max_limit").value);
  const duration = field(row, "reset_duration").value.trim();
  if (!form.dataset.owner || !limit || !duration) {
    place.textContent = "";
    return;
  }
  const [kind, id] = form.dataset.owner.split(" ");
  const aligned = field(row, "calendar_aligned").checked;
  await writePreview(place, { kind, id, max_limit: limit, reset_duration: duration, calendar_aligned: aligned }, field(row, "enforcement").value);
}

document.addEventListener("input", (event) => {
  const row = event.target.closest?.('[data-row-of="budgets"]');
  if (!row) return;
  clearTimeout(timers.get(row));
  timers.set(row, setTimeout(() => preview(row), PREVIEW_AFTER_MS));
});
for (const row of document.querySelectorAll('[data-row-of="budgets"]')) preview(row);

// -- an override that was asked for on the page of prices -----------------------------------------------------------------

const wanted = document.querySelector("[data-override]");
if (wanted) {
  const known = [...document.querySelectorAll('[name$="].model"]')].find((each) => each.value === wanted.dataset.override);
  const row = known?.closest("[data-row-of]") ?? add("price_overrides");
  if (!known) {
    const values = JSON.parse(wanted.dataset.values);
    for (const [name, value] of Object.entries(values)) {
      const input = field(row, name);
      if (input) input.value = value;
    }
  }
  row.scrollIntoView({ block: "center" });
  field(row, "input").focus();
}
