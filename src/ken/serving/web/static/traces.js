// Draws the traces of a question's attempts from the data that the page brings along.

import * as trace from "./trace.js";

for (const place of document.querySelectorAll(".attempt")) {
  const view = JSON.parse(place.querySelector("script[type='application/json']").textContent);
  place.append(trace.summary(view.steps, view.usage), trace.steps(view.steps));
}
