"""A trajectory on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ken.cli.plain import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from ken.core import Decision, GraphQuery, Passage, Trajectory

SHOWN = 10  # passages under an answer
_VERDICTS = {True: "knows", False: "does not know", None: "unreadable verdict"}


def show_answer(console: Console, trajectory: Trajectory) -> None:
    """The decision with its rationale, the answer, and the passages or triples that it rests on."""
    from ken.agents.graph_explain import kept, origin
    from ken.core import Answer

    if trajectory.decision is not None:
        _line(console, "decision", verdict(trajectory.decision), style="magenta")
        if trajectory.decision.rationale:
            _line(console, "because", trajectory.decision.rationale)
    for search in trajectory.searches:
        _line(console, "searched", search.query, style="cyan")
    if cut := max((s.left_out for s in trajectory.steps if s.kind == "observation"), default=0.0):
        _line(console, "left out", _cut(cut), style="yellow")
    answer = trajectory.answer
    if answer:
        _line(console, "answer", answer, style="bold green")
    elif answer is not None:
        _line(console, "no answer", "nothing that it tried gave one", style="red")
    else:
        written = next((s.text for s in reversed(trajectory.segments) if s.role == "policy"), "")
        _line(
            console,
            "no answer",
            f"the model ended without <answer>…</answer>; it wrote: {written.strip() or 'nothing'}",
            style="red",
        )
    last = next((s for s in reversed(trajectory.steps) if isinstance(s, Answer)), None)
    if last is not None and last.source is not None and trajectory.consulted:
        _line(console, "source", origin(last))
    for depth, triples in enumerate(kept(trajectory), start=1):
        _line(console, f"hop {depth}", "; ".join(map(str, triples)))
    if trajectory.passages:
        console.print()
        for number, passage in enumerate(trajectory.passages[:SHOWN], start=1):
            console.print(_passage(number, passage))
        if (more := len(trajectory.passages) - SHOWN) > 0:
            console.print(f"and {more} more, which --trace shows", style="dim")


def show_trace(console: Console, trajectory: Trajectory) -> None:
    """Every step, in order."""
    for step in trajectory.steps:
        match step.kind:
            case "thought":
                _line(console, "thought", step.text)
            case "decision":
                _line(console, "decision", verdict(step), style="magenta")
            case "search":
                _line(console, "search", step.query, style="cyan")
            case "graph_query":
                _line(console, "graph", _asked(step), style="cyan")
            case "observation":
                if step.left_out:
                    _line(console, "left out", _cut(step.left_out), style="yellow")
                if step.note:
                    _line(console, "observed", step.note, style="red" if step.error else "")
                for triple in step.triples:
                    _line(console, "", str(triple))
                for number, passage in enumerate(step.passages, start=1):
                    console.print(_passage(number, passage, indent="  "))
            case "sub_question":
                _line(console, "part", f"{step.index + 1}. {step.question or step.text}", style="cyan")
                for candidate in step.candidates:
                    mark = "✓" if candidate.method == step.chosen else " "
                    said = candidate.text if not candidate.problem else f"no answer: {candidate.problem}"
                    _line(console, "", f"{mark} {candidate.method} {candidate.score:.3f}  {said}")
            case "tool_call":
                _line(console, "tool", f"{step.name} {step.arguments}", style="cyan")
            case "malformed":
                _line(console, "malformed", f"{step.problem}: {step.text.strip()}", style="red")
            case "answer":
                _line(console, "answer", step.text, style="bold green")


def _asked(query: GraphQuery) -> str:
    """A question to a knowledge graph, as a pattern with a gap: `Lisbon, capital of, ?`."""
    if query.relation is None:
        return f"{query.entity.label}: its relations"
    ends = (query.entity.label, query.relation, "?")
    return ", ".join(ends if query.direction != "in" else ends[::-1])


def _cut(share: float) -> str:
    return f"{share:.0%} of the text, from its middle: it did not fit the model's window"


def verdict(decision: Decision) -> str:
    """The verdict in words, with the model's own probability if it gave one."""
    sure = "" if decision.confidence is None else f" ({decision.confidence:.0%} sure that it knows)"
    return _VERDICTS[decision.knows] + sure


def _line(console: Console, label: str, text: str, style: str = "") -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=10, style="dim", justify="right", no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_row(Text(label), Text(plain(" ".join(text.split())), style=style))
    console.print(Padding(grid, (0, 0)))


def _passage(number: int, passage: Passage, indent: str = "") -> Text:
    from rich.text import Text

    text = plain(" ".join(passage.text.split()))
    if len(text) > 240:
        text = text[:240].rsplit(" ", 1)[0] + " …"
    origin = passage.source or passage.id
    return Text.assemble(
        (f"{indent}[{number}] ", "dim"),
        (plain(passage.title or passage.id), "bold"),
        "  ",
        text,
        "  ",
        (plain(origin), "dim"),
    )
