// How a running audit stands; when it has ended the page shows its report.
import { RETRYING, tell } from "./live.js";

const place = document.getElementById("standing");
const bar = place.querySelector("progress"), words = document.getElementById("words");
const began = { at: performance.now(), done: null };
const source = new EventSource(place.dataset.events);

source.addEventListener("standing", (event) => {
  const now = JSON.parse(event.data);
  if (now.state === "cancelled" || now.state === "stopped" || now.state === "done") {
    source.close();
    location.reload();
    return;
  }
  if (now.state === "measuring") {
    bar.removeAttribute("value");
    words.textContent = "All attempts are made; measuring.";
    return;
  }
  bar.max = now.total || 1;
  bar.value = now.done;
  began.done ??= now.done;
  const failed = now.failed ? `, ${now.failed.toLocaleString("en")} failed` : "";
  words.textContent = now.total ? `${now.done.toLocaleString("en")} of ${now.total.toLocaleString("en")} attempts${failed}${left(now)}` : "Starting …";
});

// Lost for good (the audit does not run any more), or for a moment: EventSource tries again by itself then.
source.addEventListener("error", () => {
  if (source.readyState === EventSource.CLOSED) location.reload();
  else tell(RETRYING);
});
source.addEventListener("open", () => tell(""));

function left(now) {
  const seconds = (performance.now() - began.at) / 1000, made = now.done - began.done;
  if (seconds < 5 || made < 5) return "";
  const rest = ((now.total - now.done) * seconds) / made;
  return rest < 90 ? `, about ${Math.ceil(rest)} s left` : `, about ${Math.ceil(rest / 60)} min left`;
}
