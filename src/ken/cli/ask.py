"""`ken ask`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ken.cli import options
from ken.cli.plain import plain
from ken.core.errors import BadInput


def ask(  # noqa: PLR0917 (typer reads the options from the signature)
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    index: options.Index = "",
    model: options.Model = "",
    strategy: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="direct, rag, search, adaptive, tools (which runs code in a sandbox), graph, tree, …; a wrong name "
            "lists them all, docs/ask.md says what they do.",
        ),
    ] = "adaptive",
    top_k: options.TopK = 3,
    trace: Annotated[bool, typer.Option("--trace", help="Show every step.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole trajectory as JSON.")] = False,
    base_url: options.BaseUrl = None,
    api_key: options.ApiKey = None,
    device: options.Device = None,
    timeout: options.Timeout = None,
    control_tokens: options.ControlTokens = None,
    decoder: options.Decoder = None,
    temperature: options.Temperature = 0.0,
    max_tokens: options.MaxTokens = 512,
    seed: options.Seed = 0,
    mcp: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COMMAND|URL",
            help="For --strategy tools and tool-stages: an MCP server whose tools may be used; may be repeated.",
        ),
    ] = None,
    tools: Annotated[
        str, typer.Option(metavar="FILE", help="For --strategy tool-stages: a JSON file of HTTP endpoints to call.")
    ] = "",
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOOL", help="A tool that may be called although it changes something outside; may be repeated."
        ),
    ] = None,
    graph: options.Graph = "",
    within: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="Only documents whose ids lie in this folder of the index, such as the reviews of one product.",
        ),
    ] = "",
) -> None:
    """Answer a question over your documents, searching only when the model does not know, and say why."""
    if not question.strip():
        raise BadInput("the question is empty; ask something")
    if not model:
        _passages_only(question, index, top_k, as_json)
        return

    import ken

    trajectory = ken.ask(
        question,
        model=model,
        index=index or None,
        strategy=strategy,
        top_k=top_k,
        sampling=options.sampling(temperature, max_tokens, seed),
        mcp=mcp or (),
        graph=graph or None,
        within=within,
        tools=tools or None,
        allow=allow or (),
        **options.given(
            base_url=base_url,
            api_key=api_key,
            device=device,
            timeout=timeout,
            control_tokens=control_tokens,
            decoder=decoder,
        ),
    )
    if as_json:
        # Through json, because it escapes all that is not ASCII, and with it what a terminal could obey.
        typer.echo(json.dumps(json.loads(trajectory.model_dump_json()), indent=2))
    else:
        from rich.console import Console

        from ken.cli.trace import show_answer, show_trace

        console = Console(highlight=False)
        if trace:
            show_trace(console, trajectory)
        elif trajectory.error is None:
            show_answer(console, trajectory)
    if (mcp or strategy.startswith("tool-stages")) and not trace:
        for step in trajectory.steps:
            # An answer without a tool that was asked for, or with one that failed.
            if step.kind == "observation" and (step.error or step.note.startswith("[ERROR]")):
                typer.echo(f"ken: {' '.join(plain(step.note).split())}", err=True)
    if trajectory.error is not None:
        typer.echo(f"ken: {' '.join(plain(trajectory.error).split())}", err=True)
        raise typer.Exit(1)


def _passages_only(question: str, index: str, top_k: int, as_json: bool) -> None:
    """What can be done without a model: find the passages that an answer would rest on."""
    if not index:
        raise BadInput(
            "there is nothing to ask: name a model with --model SPEC, an index with --index DIR, or both (or in "
            "ken.toml)"
        )
    from ken.cli.index import search

    typer.echo(
        "no model was given (--model SPEC, or `model = …` in ken.toml), so these are only the best passages:\n",
        err=True,
    )
    search(question, index=index, top_k=top_k, as_json=as_json)
