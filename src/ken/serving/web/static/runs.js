// Runs are shown anew when the server says that something was written.
import { RETRYING, renew, tell } from "./live.js";

const address = location.pathname + location.search;
const live = document.getElementById("live");
let busy = false;
let again = false;

async function show() {
  again = true;
  if (busy) return;
  busy = true;
  while (again) {
    again = false;
    await renew(address, "live");
  }
  busy = false;
}

if (live) {
  const events = new EventSource(live.dataset.events);
  let lost = false;
  events.addEventListener("changed", show);
  events.addEventListener("error", () => {
    lost = true;
    tell(RETRYING);
  });
  events.addEventListener("open", () => { if (lost) show(); lost = false; }); // what was written meanwhile
}
