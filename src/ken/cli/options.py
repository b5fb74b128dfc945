"""Options that several commands share, so that they read and mean the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from ken.core import Sampling

Model = Annotated[
    str,
    typer.Option(
        metavar="SPEC",
        help="openai/NAME (any OpenAI-compatible server), hf/NAME_OR_PATH (transformers) or lab/factworld.",
    ),
]
Index = Annotated[
    str, typer.Option(metavar="DIR|URL", help="The folder of an index, or the address of a /retrieve service.")
]
Graph = Annotated[
    str,
    typer.Option(
        metavar="FILE|DIR|URL",
        help="A knowledge graph: triples in a file (.nt, .ttl, .tsv), the folder of `ken graph build`, or a SPARQL "
        "endpoint.",
    ),
]
# Of commands that serve.
Models = Annotated[
    list[str] | None, typer.Option(metavar="SPEC", help="As for `ken ask`; may be repeated, the first is default.")
]
Indexes = Annotated[
    list[str] | None,
    typer.Option(metavar="[NAME=]DIR|URL", help="An index or a /retrieve service; may be repeated."),
]
# Their parameters are `client_key` and `api_key`: in ken.toml, `api_key` is the model's server's for every command.
ClientKey = Annotated[
    list[str] | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        help="Clients must show it over HTTP; may be repeated. Default: $KEN_API_KEY, which keeps it out of the "
        "shell's history (several with spaces between).",
    ),
]
UpstreamKey = Annotated[
    str | None,
    typer.Option("--upstream-key", help="For openai/…: the key of the model's server; default: $OPENAI_API_KEY."),
]
TopK = Annotated[int, typer.Option("--top-k", "-k", help="Passages per search.")]
BaseUrl = Annotated[str | None, typer.Option(help="Of the server for openai/…; default: $OPENAI_BASE_URL.")]
ApiKey = Annotated[
    str | None, typer.Option(help="For openai/…; default: $OPENAI_API_KEY, which keeps it out of the shell's history.")
]
Device = Annotated[str | None, typer.Option(help="For hf/…: cpu, cuda, …; default: a GPU if there is one.")]
Timeout = Annotated[float | None, typer.Option(help="For openai/…: seconds for one reply (default 60).")]
Concurrency = Annotated[int | None, typer.Option(help="For openai/…: most requests at once (default 16).")]
ControlTokens = Annotated[
    bool | None,
    typer.Option(
        "--control-tokens", help="For openai/…: the server runs a lab model, which takes instructions as one token."
    ),
]
Decoder = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[:KEY=VALUE,…]",
        help="For hf/… and lab/…: choose tokens by lfd, dola, cad, contrastive or greedy instead of the model's own "
        "logits.",
    ),
]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 is greedy.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Most new tokens per model call.")]
Seed = Annotated[int, typer.Option(help="Of sampling.")]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT|local", help="Spread the work over a Ray cluster, or one on this machine; the same results."
    ),
]


_OF_A_MODEL = {
    "base_url": BaseUrl,
    "api_key": ApiKey,
    "device": Device,
    "concurrency": Concurrency,
    "timeout": Timeout,
    "control_tokens": ControlTokens,
    "decoder": Decoder,
}


def with_model_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes `**options` takes the options that go with a model's spec; those that were given arrive."""
    hints = get_type_hints(command, include_extras=True)
    own = [p.replace(annotation=hints[name]) for name, p in signature(command).parameters.items() if p.kind != _REST]
    of_a_model = [
        Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=kind)
        for name, kind in _OF_A_MODEL.items()
    ]

    @wraps(command)
    def with_options(**values: Any) -> None:
        command(**{name: value for name, value in values.items() if name not in _OF_A_MODEL or value is not None})

    with_options.__signature__ = signature(command).replace(parameters=[*own, *of_a_model])  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in [*own, *of_a_model]}
    return with_options


_REST = Parameter.VAR_KEYWORD


def sampling(temperature: float, max_tokens: int, seed: int) -> Sampling:
    """Raises `BadInput` for what the options' own limits let through: an infinite temperature."""
    from pydantic import ValidationError

    from ken.core import BadInput, Sampling

    try:
        return Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed)
    except ValidationError as error:
        problem = error.errors()[0]
        raise BadInput(f"{problem['loc'][0]} is {problem['input']}: {problem['msg']}") from error


def given(**options: Any) -> dict[str, Any]:
    """The options that were given, without those left at None."""
    return {name: value for name, value in options.items() if value is not None}


def named_index(text: str) -> tuple[str, str]:
    """What `Indexes` takes: `NAME=DIR`, or a folder under its own name. Raises `BadInput`."""
    from pathlib import Path

    from ken.core import BadInput

    name, equals, place = text.partition("=")
    if not equals or "/" in name:
        name, place = Path(text.rstrip("/")).name, text
    if name in {"", ".", ".."} or not place:
        raise BadInput(f"--index {text!r} names nothing; it looks like --index DIR or --index NAME=DIR")
    return name, place


def named_indexes(texts: Sequence[str] | None, top_k: int) -> dict[str, str]:
    """The folders and addresses of `Indexes` by name. Each is opened once, so that one that is not there is named now
    and not at the first search. Raises `BadInput` and `SourceError`."""
    from ken.agents.ask import open_sources
    from ken.core import BadInput

    found: dict[str, str] = {}
    for name, place in map(named_index, texts or ()):
        if name in found:
            raise BadInput(f"two indexes are called {name!r}; give one another name with --index NAME=DIR")
        open_sources(place, top_k)
        found[name] = place
    return found
