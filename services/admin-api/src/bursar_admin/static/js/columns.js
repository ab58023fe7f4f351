// Which columns of a table show: chosen by the reader, kept by the browser.
const choosers = document.querySelectorAll("[data-columns]");

for (const chooser of choosers) {
  const name = `bursar_${chooser.dataset.columns}_columns`;
  const box = document.querySelector(chooser.dataset.of);
  const choices = [...chooser.querySelectorAll("input")];
  // By a class of the box: rows that come later are dressed already.
  const dress = () => {
    for (const choice of choices) box.classList.toggle(`no-${choice.value}`, !choice.checked);
  };
  const narrow = matchMedia("(max-width: 719px)");
  const defaults = choices.map((choice) => choice.checked);
  let chosen = false;
  // Until somebody chooses, a telephone shows what fits beside what it cost.
  const fit = () => {
    if (chosen) return;
    choices.forEach((choice, at) => { choice.checked = defaults[at] && !(narrow.matches && "wide" in choice.dataset); });
    dress();
  };
  narrow.addEventListener("change", fit);
  try {
    const kept = JSON.parse(localStorage.getItem(name) ?? "null");
    if (Array.isArray(kept)) {
      chosen = true;
      for (const choice of choices) choice.checked = kept.includes(choice.value);
    }
  } catch { /* nothing worth keeping */ }
  for (const choice of choices) {
    choice.addEventListener("change", () => {
      chosen = true;
      localStorage.setItem(name, JSON.stringify(choices.filter((each) => each.checked).map((each) => each.value)));
      dress();
    });
  }
  dress();
  fit();
}
