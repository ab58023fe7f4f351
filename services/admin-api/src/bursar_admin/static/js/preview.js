// What a budget would have refused in the last days, as the REST API works it out.
import { money } from "./numbers.js";

function sentence(found, enforcement) {
  const spent = money(found.spent_nusd);
  if (found.requests === 0) return `No requests in the last ${found.days} days to compare it with.`;
  const all = `${found.requests.toLocaleString("en-US")} requests of the last ${found.days} days (${spent})`;
  const verb = enforcement === "observe" ? "Would have marked" : "Would have refused";
  if (found.would_refuse === 0) return `${verb} none of the ${all}.`;
  const first = new Date(found.first_refused_at).toLocaleString(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
  return `${verb} ${found.would_refuse.toLocaleString("en-US")} of the ${all}, the first on ${first}.`;
}

/** Writes the sentence into a place, unless another question was asked of it meanwhile; nothing where it cannot be said. */
export async function writePreview(place, question, enforcement) {
  const asked = new URLSearchParams(question).toString();
  place.dataset.asked = asked;
  let text = "";
  try {
    const answer = await fetch(`/api/governance/budget-preview?${asked}`);
    if (answer.ok) text = sentence(await answer.json(), enforcement);
  } catch { /* the gateway does not answer: the form says so when it is sent */ }
  if (place.dataset.asked === asked) place.textContent = text;
}
