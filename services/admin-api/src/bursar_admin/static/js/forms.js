// Forms that speak to the REST API: fields named by their path in the body, errors beside their field.
import { nanoDollars, plain } from "./amounts.js";
import { toast } from "./app.js";

/** `budgets[0].max_limit` -> ["budgets", 0, "max_limit"] */
function steps(path) {
  return path.split(".").flatMap((part) => {
    const [name, ...indices] = part.split("[");
    return [name, ...indices.map((text) => Number.parseInt(text, 10))];
  });
}

function put(body, path, value) {
  const parts = steps(path);
  let place = body;
  parts.forEach((part, index) => {
    if (index === parts.length - 1) place[part] = value;
    else place = place[part] ??= typeof parts[index + 1] === "number" ? [] : {};
  });
}

/** A moment as a field of date and time has it, in this browser's zone. */
function local(iso) {
  const moment = new Date(iso);
  const shifted = new Date(moment.getTime() - moment.getTimezoneOffset() * 60_000);
  return Number.isNaN(moment.getTime()) ? "" : shifted.toISOString().slice(0, 16);
}

for (const field of document.querySelectorAll("input[data-moment]")) field.value = local(field.dataset.moment);

/** What a field says: undefined leaves it out. data-type: text | number | boolean | list | time | json | nusd (dollars,
    said in nano-dollars, as the difference to data-now); data-empty="null" clears where the field is empty. */
function valueOf(field) {
  const kind = field.dataset.type ?? "text";
  if (field.type === "checkbox") return field.checked;
  if (kind === "json") return JSON.parse(field.value);
  const text = field.value.trim();
  if (kind === "list") return text === "" ? [] : text.split(/[,\n]+/).map((each) => each.trim()).filter(Boolean);
  if (text === "") return field.dataset.empty === "null" ? null : field.dataset.empty === "text" ? "" : undefined;
  if (kind === "number") {
    const number = Number(plain(text) ?? NaN);
    return Number.isFinite(number) ? number : text; // the server says what is wrong with it
  }
  if (kind === "nusd") {
    const amount = nanoDollars(text);
    return amount === null ? text : Number(amount - BigInt(field.dataset.now));
  }
  if (kind === "boolean") return text === "true";
  if (kind === "time") {
    // A field knows minutes; what nobody touched is sent as it came.
    if (field.dataset.moment && field.value === local(field.dataset.moment)) return field.dataset.moment;
    const moment = new Date(text);
    return Number.isNaN(moment.getTime()) ? text : moment.toISOString();
  }
  return text;
}

function bodyOf(form) {
  const body = {};
  for (const field of form.elements) {
    if (!field.name || field.matches(":disabled")) continue;
    const value = valueOf(field);
    if (value !== undefined) put(body, field.name, value);
  }
  // A group nobody filled in is absent as a whole.
  for (const group of form.querySelectorAll("[data-null-if-empty]")) {
    if (group.closest("fieldset:disabled")) continue;
    const asked = [...group.querySelectorAll("input:not([type=hidden]):not([type=checkbox])")];
    if (asked.every((field) => field.value.trim() === "")) put(body, group.dataset.nullIfEmpty, null);
  }
  return body;
}

function sentence(problem) {
  const allowed = Array.isArray(problem.allowed) ? problem.allowed.join(", ") : problem.allowed;
  const message = problem.message.charAt(0).toUpperCase() + problem.message.slice(1);
  return allowed ? `${message}. Allowed: ${allowed}.` : message;
}

/** `parts[0].percent` -> `parts[0]` -> `parts` -> empty */
const above = (path) => path.replace(/(\.[^.[]+|\[\d+\]|^[^.[]+)$/, "");

/** Beside the field itself, else beside the nearest one above it in the body (`provider_configs[0].allowed_models[2]`). */
function placeOf(form, path) {
  for (let at = path; at; at = above(at)) {
    const place = form.querySelector(`[data-problem="${CSS.escape(at)}"]`);
    if (place) return place;
  }
  return null;
}

function show(form, error) {
  let unplaced = "";
  const first = error.problems ?? [{ ...error, message: error.message.replace(`${error.field}: `, "") }];
  for (const problem of first) {
    const place = problem.field ? placeOf(form, problem.field) : null;
    if (!place) {
      unplaced = problem.field ? `${problem.field}: ${sentence(problem)}` : sentence(problem);
      continue;
    }
    place.textContent = sentence(problem);
    const folded = place.closest("details");
    if (folded) folded.open = true;
    const named = form.elements[place.dataset.problem];
    const field = named instanceof RadioNodeList ? named[0] : named;
    field?.setAttribute("aria-invalid", "true");
  }
  form.querySelector('[aria-invalid="true"]')?.focus();
  if (unplaced) form.querySelector('[data-problem=""]').textContent = unplaced;
}

function link(href, text) {
  return Object.assign(document.createElement("a"), { href, textContent: text });
}

/** Somebody was faster, a name is taken, or something still depends on it: what to do stands beside it. */
function conflict(form, error) {
  const at = error.field || "name";
  const taken = form.querySelector(`[data-problem="${CSS.escape(at)}"]`);
  if (error.existing_id && form.dataset.existing && taken) {
    taken.replaceChildren(`${error.message} `, link(form.dataset.existing + error.existing_id, "Open it"));
    form.elements[at]?.setAttribute("aria-invalid", "true");
    form.elements[at]?.focus();
    return;
  }
  const place = form.querySelector('[data-problem=""]');
  if (error.children) {
    const list = document.createElement("ul");
    const pages = { team: "/governance/teams", user: "/governance/users", virtual_key: "/governance/keys", allocation: "/finance/allocations" };
    for (const child of error.children) {
      const item = document.createElement("li");
      item.append(pages[child.kind] ? link(`${pages[child.kind]}/${child.id}`, child.name) : child.name);
      list.append(item);
    }
    const more = error.children_count - error.children.length;
    if (more > 0) list.append(Object.assign(document.createElement("li"), { textContent: `and ${more} more` }));
    const deleting = form.dataset.api.startsWith("DELETE");
    const named = error.children.some((child) => child.kind === "allocation");
    place.replaceChildren(deleting ? named ? "It is named by what is charged each month. End or delete that first:" : "Something still belongs to it. Move or delete it first:" : "Limits below are counted in this time zone. Remove them first:", list);
    return;
  }
  if (error.version !== undefined && form.dataset.here) {
    place.replaceChildren("Somebody changed this since you opened it; nothing was saved. ", link(form.dataset.here, "Load it as it is now"), ".");
    return;
  }
  show(form, error.version === undefined ? error : { ...error, message: `${error.message} Cancel and open the form again to see it as it is now.` });
}

/** Where to go when it is done: data-then, with the id of what the answer holds. */
function follow(form, said) {
  const made = Object.values(said).find((each) => each && typeof each === "object" && typeof each.id === "string");
  sessionStorage.setItem("bursar_said", said.message ?? "Saved");
  const target = form.dataset.then.replace("{id}", encodeURIComponent(made?.id ?? said.id ?? ""));
  if (target === location.pathname + location.search) location.reload();
  else location.assign(target);
}

async function send(form) {
  if (form.dataset.sending) return; // pressed again: once is enough
  const [method, path] = form.dataset.api.split(" ");
  const headers = { "content-type": "application/json" };
  if (form.dataset.version) headers["if-match"] = `"${form.dataset.version}"`;
  for (const place of form.querySelectorAll("[data-problem]")) place.textContent = "";
  for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  const button = form.querySelector("button.primary");
  button.disabled = true;
  form.dataset.sending = "yes";
  try {
    const answer = await fetch(path, { method, headers, body: JSON.stringify(bodyOf(form)) });
    const said = await answer.json();
    if (!answer.ok) {
      const detail = { status: answer.status, error: said.error };
      if (!form.dispatchEvent(new CustomEvent("bursar:refused", { bubbles: true, cancelable: true, detail }))) return;
      if (answer.status === 409) conflict(form, said.error);
      else show(form, said.error);
      return;
    }
    const saved = new CustomEvent("bursar:saved", { bubbles: true, cancelable: true, detail: said });
    if (!form.dispatchEvent(saved)) return;
    if (form.dataset.then) follow(form, said);
    else toast(said.message ?? "Saved");
    refresh(form);
  } catch {
    show(form, { message: "The gateway does not answer; nothing was changed as far as this page knows.", field: "" });
  } finally {
    delete form.dataset.sending;
    button.disabled = false;
  }
}

function refresh(form) {
  const target = form.dataset.refresh && document.querySelector(form.dataset.refresh);
  if (target) window.htmx.trigger(target, "refresh");
}

document.addEventListener("submit", (event) => {
  if (!(event.target instanceof HTMLFormElement) || !event.target.dataset.api) return;
  event.preventDefault();
  send(event.target);
});
// What was said about a field is about what stood in it.
document.addEventListener("input", (event) => {
  const field = event.target;
  const form = field.form;
  if (!form?.dataset.api || !field.name) return;
  field.removeAttribute("aria-invalid");
  for (let at = field.name; at; at = above(at)) {
    const place = form.querySelector(`[data-problem="${CSS.escape(at)}"]`);
    if (place) place.textContent = "";
  }
});
document.addEventListener("click", (event) => {
  const form = event.target instanceof Element && event.target.closest("[data-cancel]")?.closest("form");
  if (form) refresh(form);
});
document.addEventListener("keydown", (event) => {
  const form = event.key === "Escape" && event.target instanceof Element && event.target.closest("form[data-api]");
  if (form) refresh(form);
});
document.addEventListener("htmx:afterSwap", (event) => {
  event.target.querySelector?.("[autofocus]")?.focus();
});

const said = sessionStorage.getItem("bursar_said");
if (said) {
  sessionStorage.removeItem("bursar_said");
  toast(said);
}
