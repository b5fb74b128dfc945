"""`ken retrieve serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ken.core.errors import BadInput, Unsupported

app = typer.Typer(help="Serve an index to other programs.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Keeps `serve` a subcommand although it is the only one."""


@app.command()
def serve(
    index: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of the index.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in, without any login.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8000,
    rewriter: Annotated[
        str, typer.Option(metavar="SPEC", help="Also /rewrite: this model rewrites queries of conversations.")
    ] = "",
) -> None:
    """Serve an index by the /retrieve protocol of Search-R1, until interrupted."""
    from ken.models import load_model
    from ken.sources.search.index import Index

    if index is None:
        raise BadInput(
            "name the index with --index DIR (or `index = …` in ken.toml); make one with `ken index build SRC DIR`"
        )
    opened = Index.open(index)
    try:
        from ken.serving.retrieve import serve as run
    except ImportError as error:
        raise Unsupported("serving needs fastapi and uvicorn; run `pip install 'ken[serve]'`") from error
    run(opened, host=host, port=port, rewriter=load_model(rewriter) if rewriter else None)
