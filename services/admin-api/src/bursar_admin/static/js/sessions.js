// Sessions in a list, one of them beside it.
import "./columns.js";
import { listWithPanel } from "./panel.js";

listWithPanel({
  body: document.getElementById("session-rows"),
  panel: document.getElementById("panel"),
  parameter: "open",
  part: (id) => `/fragments/sessions/${encodeURIComponent(id)}/panel`,
});
