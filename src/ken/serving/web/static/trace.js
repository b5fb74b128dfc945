// How an answer came about, drawn from the values of serving/web/trace.py.

import { element, percent, plural } from "./dom.js";

const NAMES = { thought: "thought", decision: "decision", search: "search", observation: "found", graph_query: "graph", sub_question: "part", tool_call: "tool", answer: "answer", malformed: "malformed" };

// The steps as a list.
export function steps(list) {
  return element("ol", { class: "steps" }, ...list.map(step));
}

export function step(view) {
  const name = view.kind === "observation" && !view.passages.length && !view.triples.length ? (view.error ? "error" : "note") : NAMES[view.kind] ?? view.kind;
  return element("li", { class: `step ${view.kind}${view.error ? " failed" : ""}` }, element("span", { class: "kind", text: name }), body(view));
}

function body(view) {
  switch (view.kind) {
    case "decision":
      return element("div", {}, verdict(view), view.rationale ? element("p", { class: "words", text: view.rationale }) : null);
    case "search":
      return element("div", { class: "words query", text: view.query });
    case "graph_query":
      return element("div", { class: "words query", text: [view.entity.label, view.direction, view.relation].filter(Boolean).join(" · ") });
    case "observation":
      return element("div", {}, view.note ? element("p", { class: "words", text: view.note }) : null, ...view.triples.map((t) => element("p", { class: "words", text: `${t.subject.label}, ${t.relation}, ${t.object.label}` })), ...view.passages.map(passage));
    case "sub_question":
      return element("div", {}, element("div", { class: "words query", text: view.question || view.text }), ...view.candidates.map((c) => element("p", { class: c.method === view.chosen ? "words" : "words soft", text: `${c.method} ${c.score.toFixed(3)}: ${c.problem || c.text}` })));
    case "tool_call":
      return element("pre", { text: `${view.name}\n${JSON.stringify(view.arguments, null, 2)}` });
    case "malformed":
      return element("div", {}, element("p", { text: view.problem }), view.text.trim() ? element("pre", { text: view.text }) : null);
    case "answer":
      return element("div", { class: "words" }, view.text.trim() ? view.text : element("span", { class: "soft", text: "nothing" }), sure(view.confidence));
    default:
      return element("div", { class: "words", text: view.text });
  }
}

function sure(confidence) {
  return confidence === null || confidence === undefined ? null : element("span", { class: "soft small", text: ` ${percent(confidence)} sure` });
}

// What the model said about its own knowledge, as a badge.
export function verdict(view) {
  const [text, kind] = view.knows === null ? ["unreadable verdict", "unsure"] : view.knows ? ["knows", "good"] : ["does not know", "info"];
  const detail = view.confidence === null ? "" : ` · ${percent(view.confidence)} sure that it knows`;
  return element("span", {}, element("span", { class: `badge ${kind}`, text }), detail ? element("span", { class: "soft small", text: detail }) : null);
}

function passage(view, number) {
  const evident = [...view.title, ...view.text].some(([, marked]) => marked);
  const title = view.title.length ? pieces(view.title) : [view.id];
  return element(
    "details",
    { class: `passage${evident ? " evident" : ""}`, open: number === 0 || evident },
    element("summary", {}, element("span", { class: "soft", text: `${number + 1} ` }), ...title, evident ? element("span", { class: "badge good", text: "holds the answer's words" }) : null),
    element("p", { class: "words" }, ...pieces(view.text)),
    element("p", { class: "soft small mono", text: view.id }),
  );
}

function pieces(list) {
  return list.map(([text, marked]) => (marked ? element("mark", { text }) : text));
}

// In a line: what it decided, how often it searched, what it cost.
export function summary(list, usage) {
  const decision = list.find((s) => s.kind === "decision");
  const searches = list.filter((s) => s.kind === "search").length;
  const parts = [];
  if (decision) parts.push(verdict(decision));
  parts.push(element("span", { class: "badge", text: searches ? plural(searches, "search", "searches") : "no search" }));
  if (usage) {
    const tokens = usage.prompt_tokens + usage.completion_tokens;
    if (tokens) parts.push(element("span", { class: "soft small", text: `${plural(tokens, "token")} (${usage.prompt_tokens.toLocaleString("en")} read, ${usage.completion_tokens.toLocaleString("en")} written)` }));
    parts.push(element("span", { class: "soft small", text: `${usage.seconds < 10 ? usage.seconds.toFixed(2) : usage.seconds.toFixed(0)} s` }));
  }
  return element("p", { class: "facts" }, ...parts);
}

// What a model is writing now: the tag it is in, and the words so far. Tags may be cut off anywhere.
export function writing(text) {
  let kind = "thought", start = 0;
  for (const match of text.matchAll(/<(\/?)(think|search|answer|assessment)>/g)) {
    kind = match[1] ? "thought" : { think: "thought", search: "search", answer: "answer", assessment: "decision" }[match[2]];
    start = match.index + match[0].length;
  }
  return { kind, text: text.slice(start).replace(/<\/?[a-z]*$/, "").trim() };
}
