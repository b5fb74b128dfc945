// A paper's page: reads its row when it is ready, follows the smoke run, copies the command.
import { RETRYING, renew, tell } from "./live.js";

const here = location.pathname;

async function row() {
  while (document.querySelector("#row[data-reading]")) {
    await new Promise((done) => setTimeout(done, 700));
    await renew(here, "row");
  }
}

function follow() {
  const smoke = document.getElementById("smoke");
  if (!smoke?.dataset.job) return;
  const log = document.getElementById("log");
  let next = Number(smoke.dataset.next);
  log.scrollTop = log.scrollHeight;
  const events = new EventSource(`${smoke.dataset.events}?after=${next}`);
  events.addEventListener("line", (event) => {
    const { number, text } = JSON.parse(event.data);
    if (number < next) return; // told again after the connection was lost
    next = number + 1;
    document.getElementById("waiting")?.remove();
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 30;
    log.append(`${text}\n`);
    if (atEnd) log.scrollTop = log.scrollHeight;
  });
  events.addEventListener("error", () => {
    if (events.readyState === EventSource.CLOSED) renew(here, "smoke"); // a new server, which knows of no such run
    else tell(RETRYING, log); // the page is long: where people look
  });
  events.addEventListener("open", () => tell(""));
  count(Date.now() - 1000 * Number(smoke.dataset.seconds));
  events.addEventListener("ended", (event) => {
    events.close();
    document.getElementById("said").textContent = `Smoke run ${JSON.parse(event.data)}`; // read out
    renew(here, "smoke");
  });
}

// A row says nothing while it builds what it needs: that time passes shows that something happens.
function count(began) {
  const shown = document.getElementById("elapsed");
  if (!shown?.isConnected) return; // it has ended
  shown.textContent = `for ${Math.round((Date.now() - began) / 1000)} s`;
  setTimeout(count, 1000, began);
}

for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent.trim());
    button.textContent = "Copied";
  });
}

row();
follow();
