// The admin token for a cookie; then on to the page that was asked for.
const form = document.getElementById("sign-in");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const problem = document.getElementById("token-error");
  problem.textContent = "";
  try {
    const answer = await fetch("/sign-in", {
      method: "POST",
      headers: { "content-type": "application/json", accept: "application/json" },
      body: JSON.stringify({ token: form.elements.token.value }),
    });
    if (answer.ok) location.assign(form.dataset.next);
    else problem.textContent = (await answer.json()).error.message;
  } catch {
    problem.textContent = "The gateway does not answer. Is it running?";
  }
});
