"""How well each stage did, against the calls that a question takes (card 49, Metrics).

A stage is measured on what reached it: selection on sub-questions that are gold ones, calling on those that also went
to the gold tool, the response on questions whose results are all there. So a fault shows in its own stage, and later
ones are not blamed for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ken.agents.tool_stages.gold import Compose, faithful, gold_call, gold_calls
from ken.agents.tool_stages.trace import PipelineTrace
from ken.core import Question
from ken.metrics.plans import plan_score
from ken.metrics.retrieval import complete_at_k, ndcg_at_k, recall_at_k
from ken.metrics.statistics import mean
from ken.metrics.text import exact_match, rouge_l
from ken.metrics.tool_calls import arguments_f1, arguments_match, valid_call_rate

STAGES = ("planning", "selection", "calling", "response")


@dataclass(frozen=True, slots=True)
class StageScores:
    """Means; nan where nothing reached the stage. success: questions answered right. aware: right verdicts whether a
    tool is needed. planning: plan F1. candidates_*: of the tools that choosers were shown, for each sub-question.
    selection: right tools. valid: calls that reached their tool; calling: arguments all right, calling_f1: pair by
    pair; repaired: failed sub-questions that a later try answered. response: answers that follow from the results;
    rouge: ROUGE-L of the answer. calls: of tools, a question.
    """

    n: int
    success: float
    aware: float
    planning: float
    candidates_recall: float
    candidates_complete: float
    candidates_ndcg: float
    selection: float
    valid: float
    calling: float
    calling_f1: float
    repaired: float
    response: float
    rouge: float
    calls: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def stage_scores(
    questions: Sequence[Question],
    traces: Sequence[PipelineTrace],
    compose: Compose,
    *,
    needs_tool: Callable[[Question], bool] = lambda question: bool(question.meta.get("tools")),
) -> StageScores:
    """The scores of attempts, one trace a question. Raises `BadInput` for questions that do not say their calls."""
    plans, shown, chosen, problems, matched, pairs, repaired, responses = ([] for _ in range(8))
    for question, trace in zip(questions, traces, strict=True):
        if trace.knows:
            continue
        gold = [(str(call["text"]), "") for call in gold_calls(question)]
        plans.append(plan_score([(step.planned.text, "") for step in trace.steps], gold, threshold=0.99).f1)
        for step in trace.steps:
            problems += [call.problem for call in step.calls]
            if any(call.problem for call in step.calls):
                repaired.append(step.repaired)
            found = gold_call(question, step.planned.text)
            if found is None:
                continue
            right = str(found[0]["tool"])
            if step.candidates:
                shown.append((step.candidates, {right}))
            chosen.append(step.tool == right)
            asked = gold_call(question, step.asked)
            if step.tool == right and step.calls and asked is not None:
                wanted = {name: asked[1].get(str(value), value) for name, value in asked[0]["arguments"].items()}
                matched.append(arguments_match(_numbers(step.arguments), _numbers(wanted)))
                pairs.append(arguments_f1(_numbers(step.arguments), _numbers(wanted)))
        if expected := faithful(question, trace.steps, compose):
            responses.append(exact_match(trace.answer, [expected]))
    return StageScores(
        n=len(questions),
        success=mean(succeeded(q, t) for q, t in zip(questions, traces, strict=True)),
        aware=mean(t.knows is not needs_tool(q) for q, t in zip(questions, traces, strict=True) if t.knows is not None),
        planning=mean(plans),
        candidates_recall=mean(recall_at_k(names, gold, len(names)) for names, gold in shown),
        candidates_complete=mean(complete_at_k(names, gold, len(names)) for names, gold in shown),
        candidates_ndcg=mean(ndcg_at_k(names, gold, len(names)) for names, gold in shown),
        selection=mean(chosen),
        valid=valid_call_rate(problems),
        calling=mean(matched),
        calling_f1=mean(pairs),
        repaired=mean(repaired),
        response=mean(responses),
        rouge=mean(rouge_l(t.answer, q.answers) for q, t in zip(questions, traces, strict=True)),
        calls=mean(trace.calls for trace in traces),
    )


def succeeded(question: Question, trace: PipelineTrace) -> bool:
    """Is the answer right? By exact match with the golds, not by the model that answered."""
    return exact_match(trace.answer, question.answers)


def first_deviation(question: Question, trace: PipelineTrace, compose: Compose) -> str:
    """Which stage first departs from gold: "awareness", "planning", "selection", "calling", "tool" (it failed),
    "response", or "none"."""
    if trace.knows:
        return "none" if succeeded(question, trace) else "awareness"
    gold = {str(call["text"]) for call in gold_calls(question)}
    if {step.planned.text for step in trace.steps} != gold:
        return "planning"
    for step in trace.steps:
        found = gold_call(question, step.planned.text)
        if found is None or step.tool != found[0]["tool"]:
            return "selection"
    for step in trace.steps:
        asked = gold_call(question, step.asked)
        if asked is not None and step.calls:
            wanted = {name: asked[1].get(str(value), value) for name, value in asked[0]["arguments"].items()}
            if not arguments_match(_numbers(step.arguments), _numbers(wanted)):
                return "calling"
    if any(step.problem for step in trace.steps):
        return "tool"
    if not exact_match(trace.answer, [faithful(question, trace.steps, compose) or "-"]):
        return "response"
    return "none" if succeeded(question, trace) else "tool"


def _numbers(arguments: Any) -> Any:
    """Numbers that are written as text count as numbers: gold values come from texts."""
    if arguments is None:
        return None
    return {
        name: int(value.strip()) if isinstance(value, str) and value.strip().isdecimal() else value
        for name, value in arguments.items()
    }
