// The catalogue answers while one types or chooses; the address says what is shown.
import { renew } from "./live.js";

const form = document.getElementById("asked");
let waiting;

function address() {
  const given = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
  return given.size ? `/papers?${given}` : "/papers";
}

async function show() {
  clearTimeout(waiting);
  const next = address();
  history.replaceState(null, "", next);
  if (await renew(next, "found")) {
    document.getElementById("said").textContent = document.getElementById("count").textContent; // read out
  }
}

form.addEventListener("input", (event) => {
  clearTimeout(waiting);
  waiting = setTimeout(show, event.target.type === "search" ? 150 : 0);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  show();
});
