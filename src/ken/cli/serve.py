"""`ken serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ken.cli import options
from ken.core.errors import BadInput, Unsupported


def serve(  # noqa: PLR0917 (typer reads the options from the signature)
    model: Annotated[
        list[str] | None, typer.Option(metavar="SPEC", help="As for `ken ask`; may be repeated, the first is default.")
    ] = None,
    index: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]DIR|URL", help="An index or a /retrieve service; may be repeated."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8080,
    data: Annotated[Path, typer.Option(help="Folder for uploads, audits and subscriptions.")] = Path("ken-data"),
    runs: Annotated[Path, typer.Option(help="Folder in which training runs are looked for.")] = Path(),
    results: Annotated[Path, typer.Option(help="Folder of the papers' results.")] = Path("results"),
    top_k: options.TopK = 3,
    base_url: options.BaseUrl = None,
    upstream_key: Annotated[
        str | None, typer.Option(help="For openai/…: the key of the model's server; default: $OPENAI_API_KEY.")
    ] = None,
    device: options.Device = None,
    timeout: options.Timeout = None,
    control_tokens: options.ControlTokens = None,
) -> None:
    """Serve models and indexes: web pages, and an OpenAI-compatible API that searches when the model does not know."""
    from ken.models import load_model

    given = options.given(
        base_url=base_url, api_key=upstream_key, device=device, timeout=timeout, control_tokens=control_tokens
    )
    try:
        from ken.serving.app import create_app
        from ken.serving.listen import listen
        from ken.serving.service import Service
    except ImportError as error:
        raise Unsupported("serving needs fastapi and uvicorn; run `pip install 'ken[serve]'`") from error
    service = Service(
        [load_model(spec, **given) for spec in model or ()],
        indexes=dict(named_index(text) for text in index or ()),
        data=data,
        runs=runs,
        results=results,
        top_k=top_k,
    )
    listen(create_app(service), host=host, port=port)


def named_index(text: str) -> tuple[str, str]:
    """`NAME=DIR`, or a folder under its own name."""
    name, equals, place = text.partition("=")
    if not equals or "/" in name:
        name, place = Path(text.rstrip("/")).name, text
    if not name or not place:
        raise BadInput(f"--index {text!r} names nothing; it looks like --index DIR or --index NAME=DIR")
    return name, place
