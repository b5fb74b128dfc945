"""The `ken` command: its parts, the defaults from `ken.toml`, and how errors reach the user."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import ken
from ken.core.errors import KenError

app = typer.Typer(
    name="ken",
    help="Know the boundary between what a model holds inside and what it must look up.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"ken {ken.__version__}")
        raise typer.Exit


@app.callback()
def ken_command(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Know the boundary between what a model holds inside and what it must look up.

    Defaults for options are read from ken.toml in the working directory.
    """
    from ken.cli.settings import read_settings

    context.default_map = read_settings(context.command)


def _assemble() -> None:
    """Register the parts. They import heavy libraries only inside their functions."""
    from ken.cli import ask, audit, demo, index, lab, retrieve

    app.command("ask")(ask.ask)
    app.add_typer(audit.app, name="audit")
    app.command("search")(index.search)
    app.add_typer(index.app, name="index")
    app.command("demo")(demo.demo)
    app.add_typer(lab.app, name="lab")
    app.add_typer(retrieve.app, name="retrieve")


def run() -> None:
    """Run the command line; a `KenError` becomes one line on standard error and exit status 2."""
    _assemble()
    try:
        app()
    except KenError as error:
        print(f"ken: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `ken … | head`: the reader has what it wanted
        sys.stderr.close()
