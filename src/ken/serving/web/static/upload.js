// Files into a new index: sent with progress, then built on the server, which tells how far it is.

import { element, plural } from "./dom.js";

const by = (id) => document.getElementById(id);
const form = by("upload"), bar = by("progress").querySelector("progress"), words = by("progress").querySelector("p");
let cancel = null;

by("files").addEventListener("change", () => {
  const [first] = by("files").files;
  if (first && !by("name").value) by("name").value = first.name.replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N}.-]+/gu, "-").replace(/^[^\p{L}\p{N}]+/u, "").slice(0, 64);
});

form.addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  if (cancel) return;
  const files = [...by("files").files];
  const bytes = files.reduce((sum, file) => sum + file.size, 0);
  const most = { bytes: Number(form.dataset.mostBytes), files: Number(form.dataset.mostFiles) };
  if (files.length > most.files) return problem(`These are ${plural(files.length, "file")}; upload at most ${most.files} at a time.`);
  if (bytes > most.bytes) return problem(`The files have ${Math.ceil(bytes / 1048576)} MB together; upload at most ${+(most.bytes / 1048576).toPrecision(6)} MB at a time.`);
  by("uploaded").replaceChildren();
  busy(true);
  const request = new XMLHttpRequest(); // fetch cannot tell how much it has sent
  request.open("POST", "/ask/indexes");
  request.responseType = "json";
  request.upload.addEventListener("progress", (sent) => show(sent.loaded, sent.total, `Sending: ${Math.round((100 * sent.loaded) / sent.total)}%`));
  request.addEventListener("load", () => (request.status === 202 ? follow(request.response) : problem(request.response?.error?.message ?? `the server answered ${request.status}`)));
  request.addEventListener("error", () => problem("The files did not arrive; is the server still running, and may it take so much?"));
  request.addEventListener("abort", () => problem("Cancelled; nothing was kept."));
  cancel = () => request.abort();
  request.send(new FormData(form));
});

by("cancel-upload").addEventListener("click", () => cancel?.());

function follow({ name, events }) {
  const source = new EventSource(events);
  cancel = () => fetch(`/ask/indexes/${encodeURIComponent(name)}`, { method: "DELETE" });
  const told = (event) => JSON.parse(event.data);
  source.addEventListener("building", (event) => {
    const { documents, total } = told(event);
    show(documents, total, total === null ? "Counting …" : `Reading and indexing: ${documents.toLocaleString("en")} of about ${plural(total, "document")}`);
  });
  source.addEventListener("done", (event) => {
    source.close();
    const { documents, passages, skipped } = told(event);
    busy(false);
    offer(name);
    by("uploaded").replaceChildren(
      element("p", { class: "good-news", text: `The index ${name} is ready and chosen: ${plural(documents, "document")}, ${plural(passages, "passage")}.` }),
      ...(skipped.length ? [element("p", { class: "soft", text: `${plural(skipped.length, "file or line", "files or lines")} could not be read:` }), element("ul", { class: "small" }, ...skipped.map((text) => element("li", { text })))] : []),
    );
    form.reset();
  });
  source.addEventListener("failed", (event) => {
    source.close();
    problem(told(event).message);
  });
}

function offer(name) {
  const pick = by("index");
  if (pick.options.length === 1 && !pick.options[0].value) pick.options[0].remove();
  pick.append(element("option", { text: name, value: name }));
  pick.value = name;
  const strategy = by("strategy"), had = [...strategy.options].some((option) => option.disabled);
  for (const option of strategy.options) option.disabled = false;
  if (had && [...strategy.options].some((option) => option.value === "adaptive")) strategy.value = "adaptive";
  strategy.dispatchEvent(new Event("change", { bubbles: true }));
}

function problem(text) {
  busy(false);
  by("uploaded").replaceChildren(element("p", { class: "error", role: "alert", text }));
}

function busy(yes) {
  by("begin").disabled = yes;
  by("progress").hidden = !yes;
  by("cancel-upload").hidden = !yes;
  if (!yes) cancel = null;
  else show(0, null, "Sending …");
}

function show(done, total, text) {
  if (total) {
    bar.max = total;
    bar.value = done;
  } else bar.removeAttribute("value");
  words.textContent = text;
}

by("begin").disabled = false;
