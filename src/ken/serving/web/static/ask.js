import { Refused, listen } from "./events.js";
import { element } from "./dom.js";
import * as trace from "./trace.js";
import "./upload.js";

const by = (id) => document.getElementById(id);
const form = by("ask"), question = by("question"), talk = by("talk");
const KEPT = "ken.ask", HISTORY = 20;
const past = []; // what the page shows, kept for a reload: {question, choice, view | failed}
let stop = null;

// --- asking ---

form.addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  if (stop || !question.value.trim()) return;
  const asked = { question: question.value.trim(), strategy: by("strategy").value, model: by("model").value || null, index: by("index").value || null, top_k: by("top_k").valueAsNumber || null, history: by("follow").checked ? said() : [] };
  question.value = "";
  fit();
  ask(asked);
});

question.addEventListener("keydown", (key) => {
  if (key.key === "Enter" && !key.shiftKey && !key.isComposing) {
    key.preventDefault();
    form.requestSubmit();
  }
});

// The exchanges so far that have an answer, the last ones.
function said() {
  const answered = past.filter(({ view }) => given(view));
  return answered.slice(-HISTORY).map(({ asked, view }) => ({ query: asked.question, answer: view.answer }));
}

// Whether an attempt has an answer: one without a word in it is none.
function given(view) {
  return Boolean(view?.answer?.trim());
}

by("stop").addEventListener("click", () => stop?.abort());

async function ask(asked) {
  const shown = exchange(asked);
  stop = new AbortController();
  busy(true);
  say("Asked. Waiting for the model.");
  const list = [];
  let turn = "", view = null, failed = "";
  const told = {
    turn: () => { turn = ""; shown.write(trace.writing(turn)); },
    text: (data) => { turn += data.text; shown.write(trace.writing(turn)); },
    retracted: () => { turn = ""; shown.write(null); },
    step: (data) => {
      list.push(data);
      turn = "";
      shown.write(null);
      shown.add(data);
      if (data.kind === "search") say(`Searching for ${data.query}`);
      if (data.kind === "decision" && data.knows !== null) say(data.knows ? "It says that it knows." : "It says that it does not know.");
    },
    done: (data) => { view = data; },
    failed: (data) => { failed = data.message; },
  };
  try {
    const body = JSON.stringify(asked);
    await listen("/ask/stream", { method: "POST", body, headers: { "Content-Type": "application/json" }, signal: stop.signal }, (name, data) => told[name]?.(data));
    if (!view && !failed) failed = "the connection ended before the answer";
  } catch (error) {
    if (error.name === "AbortError") failed = "stopped";
    else failed = error instanceof Refused ? error.message : "the server cannot be reached; is it still running?";
  }
  stop = null;
  busy(false);
  const item = { asked, view, failed, list: view ? undefined : list };
  shown.finish(item);
  const problem = failed || view.error;
  if (problem && failed !== "stopped" && !question.value) question.value = asked.question; // what was typed is not lost
  fit();
  say(problem ? problem : !given(view) ? "It gave no answer." : `Answer: ${view.answer}`);
  past.push(item);
  keep();
  if (document.activeElement === document.body) question.focus();
}

// One question with its answer on the left and its trace on the right; returns what changes it.
function exchange(asked) {
  by("nothing").hidden = true;
  by("clear").hidden = false;
  const answer = element("div", { class: "answer-text" }, element("span", { class: "soft pulse", text: "Waiting for the model …" }));
  const list = element("ol", { class: "steps" });
  const live = element("li", { class: "step thought live", hidden: true }, element("span", { class: "kind" }), element("div", { class: "words" }));
  const facts = element("div");
  const open = matchMedia("(min-width: 60rem)").matches;
  const how = element("details", { class: "how", open }, element("summary", { text: "How it came to this" }), list);
  list.append(live);
  const chosen = [asked.strategy, asked.model, asked.index].filter(Boolean).join(" · ");
  const whole = element(
    "article",
    { class: "exchange", "aria-label": asked.question },
    element("header", {}, element("h2", { text: asked.question }), element("p", { class: "soft small", text: chosen })),
    element("div", { class: "sides" }, element("div", { class: "card reply", "aria-busy": "true" }, answer, facts), how),
  );
  talk.append(whole);
  whole.scrollIntoView({ block: "start" });
  const reply = whole.querySelector(".reply");
  return {
    write(now) {
      live.hidden = !now || (!now.text && now.kind === "thought");
      if (!now) return;
      if (now.kind === "answer" && now.text) answer.replaceChildren(now.text);
      live.className = `step live ${now.kind}`;
      live.firstChild.textContent = { thought: "thinking", search: "query", answer: "answering", decision: "judging" }[now.kind];
      live.lastChild.textContent = now.text;
    },
    add(view) {
      list.insertBefore(trace.step(view), live);
    },
    finish({ view, failed, list: before }) {
      live.remove();
      reply.removeAttribute("aria-busy");
      const made = view ? view.steps : before;
      if (view) list.replaceWith(trace.steps(view.steps));
      if (!made.length) how.remove();
      const problem = failed || view.error;
      answer.replaceChildren();
      if (view?.rewritten) whole.querySelector("header").append(element("p", { class: "soft small", text: `asked as: ${view.rewritten}` }));
      if (given(view)) answer.append(view.answer);
      else if (!problem) answer.append(element("span", { class: "soft", text: "It gave no answer." }));
      if (problem === "stopped") answer.append(element("p", { class: "soft", text: "Stopped." }));
      else if (problem) answer.append(element("p", { class: "error", role: "alert", text: problem }));
      if (problem) {
        const again = element("button", { type: "button", text: "Ask again" });
        again.addEventListener("click", () => {
          if (stop) return;
          if (question.value === asked.question) question.value = "";
          ask(asked);
        });
        answer.append(again);
      }
      if (made.length) facts.replaceChildren(trace.summary(made, view?.usage));
    },
  };
}

function busy(yes) {
  by("send").hidden = yes;
  by("stop").hidden = !yes;
  if (yes) by("stop").focus();
  else question.focus();
}

function say(text) {
  by("said").textContent = text;
}

// --- what is kept while the window is open ---

function keep() {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(past.slice(-30)));
  } catch { /* full or switched off: the page works without */ }
}

function restore() {
  try {
    for (const item of JSON.parse(sessionStorage.getItem(KEPT) ?? "[]")) {
      exchange(item.asked).finish(item);
      past.push(item);
    }
    const chosen = past.at(-1)?.asked;
    for (const name of ["strategy", "model", "index"]) {
      const option = chosen && [...by(name).options].find((o) => o.value === chosen[name] && !o.disabled);
      if (option) option.selected = true;
    }
  } catch {
    sessionStorage.removeItem(KEPT);
  }
}

by("clear").addEventListener("click", () => {
  if (stop) return;
  past.length = 0;
  keep();
  talk.replaceChildren();
  by("nothing").hidden = false;
  by("clear").hidden = true;
  question.focus();
});

// --- the form ---

function fit() {
  question.style.height = "auto";
  question.style.height = `${Math.min(question.scrollHeight + 2, 200)}px`;
}

function describe() {
  const chosen = by("strategy").selectedOptions[0];
  by("words").textContent = chosen?.dataset.words ? `${chosen.value}: ${chosen.dataset.words}.` : "";
}

function summarise() {
  const chosen = ["strategy", "model", "index"].map((name) => by(name).value).filter(Boolean);
  by("settings").firstElementChild.textContent = chosen.join(" · ");
}

question.addEventListener("input", fit);
by("strategy").addEventListener("change", describe);
// What is wrong in a closed part of the form could neither be seen nor be focused, and nothing would happen.
by("settings").addEventListener("invalid", () => { by("settings").open = true; }, true);
// What gets the focus is not scrolled behind the composer, which stays at the bottom of the window. (A scroll-padding of
// the page would be shorter, but then the composer itself would count as out of sight, and every word typed would scroll.)
new ResizeObserver(([composer]) => {
  const under = parseFloat(getComputedStyle(composer.target).bottom) || 0; // below it, where it sticks
  talk.style.setProperty("--covered", `${composer.target.offsetHeight + under + 8}px`);
}).observe(document.querySelector(".composer"));
by("settings").addEventListener("change", summarise);
by("settings").open = matchMedia("(min-width: 40rem)").matches;
restore();
summarise();
describe();
fit();
by("send").disabled = !by("model").value; // without a model nothing can be asked
