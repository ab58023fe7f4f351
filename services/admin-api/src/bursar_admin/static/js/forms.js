// Forms that speak to the REST API: fields named by their path in the body, errors beside their field.
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

function bodyOf(form) {
  const body = {};
  for (const field of form.elements) {
    if (!field.name || field.disabled) continue;
    const kind = field.dataset.type ?? "text";
    if (field.type === "checkbox") put(body, field.name, field.checked);
    else if (field.value === "") continue;
    else if (kind === "number") {
      const number = Number(field.value.replaceAll(",", ""));
      put(body, field.name, Number.isFinite(number) ? number : field.value);
    } else put(body, field.name, field.value);
  }
  return body;
}

function sentence(problem) {
  const allowed = Array.isArray(problem.allowed) ? problem.allowed.join(", ") : problem.allowed;
  const message = problem.message.charAt(0).toUpperCase() + problem.message.slice(1);
  return allowed ? `${message}. Allowed: ${allowed}.` : message;
}

function show(form, error) {
  let unplaced = "";
  const first = error.problems ?? [{ ...error, message: error.message.replace(`${error.field}: `, "") }];
  for (const problem of first) {
    const place = problem.field ? form.querySelector(`[data-problem="${CSS.escape(problem.field)}"]`) : null;
    if (!place) {
      unplaced = problem.field ? `${problem.field}: ${sentence(problem)}` : sentence(problem);
      continue;
    }
    place.textContent = sentence(problem);
    const field = form.elements[problem.field];
    field?.setAttribute("aria-invalid", "true");
    field?.focus();
  }
  if (unplaced) form.querySelector('[data-problem=""]').textContent = unplaced;
}

async function send(form) {
  const [method, path] = form.dataset.api.split(" ");
  const headers = { "content-type": "application/json" };
  if (form.dataset.version) headers["if-match"] = `"${form.dataset.version}"`;
  for (const place of form.querySelectorAll("[data-problem]")) place.textContent = "";
  for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  const button = form.querySelector("button.primary");
  button.disabled = true;
  try {
    const answer = await fetch(path, { method, headers, body: JSON.stringify(bodyOf(form)) });
    const said = await answer.json();
    if (!answer.ok) {
      if (answer.status === 409) said.error.message += " Cancel and open the form again to see it as it is now.";
      show(form, said.error);
      return;
    }
    toast(said.message ?? "Saved");
    form.dispatchEvent(new CustomEvent("bursar:saved", { bubbles: true, detail: said }));
    refresh(form);
  } catch {
    show(form, { message: "The gateway does not answer; nothing was changed as far as this page knows.", field: "" });
  } finally {
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
