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
    from ken.cli import (
        ask,
        audit,
        demo,
        feasibility,
        graph,
        index,
        knowledge,
        lab,
        mcp,
        papers,
        papers_feed,
        reading,
        replay,
        retrieve,
        rewriting,
        serve,
        train,
        verify,
    )

    app.command("ask")(ask.ask)
    audit.app.command("feasibility")(feasibility.feasibility)
    audit.app.command("knowledge")(knowledge.knowledge)
    audit.app.command("reading")(reading.reading)
    audit.app.command("rewriting")(rewriting.rewriting)
    app.add_typer(audit.app, name="audit")
    app.command("search")(index.search)
    app.add_typer(index.app, name="index")
    app.add_typer(graph.app, name="graph")
    app.command("demo")(demo.demo)
    app.add_typer(lab.app, name="lab")
    papers.app.command("add")(papers_feed.add)
    papers.app.command("digest")(papers_feed.digest)
    app.add_typer(papers.app, name="papers")
    app.command("reproduce")(papers.reproduce)
    app.command("replay")(replay.replay)
    app.command("train")(train.train)
    app.command("verify")(verify.verify)
    app.add_typer(retrieve.app, name="retrieve")
    app.command("serve")(serve.serve)
    app.command("mcp")(mcp.mcp)


def run() -> None:
    """Run the command line. What the user can cause or mend becomes one line on standard error: a wrong command line or
    input (exit status 2), Ctrl-C (130).
    """
    _assemble()
    try:
        status = app(standalone_mode=False)
    except KenError as error:
        _end(str(error), 2)
    except BrokenPipeError:  # `ken … | head`: the reader has what it wanted
        sys.stderr.close()
    except Exception as error:
        # Wrong options and arguments. By what they can do, since their class is click's or typer's own by its version.
        if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
            print(error.format_message(), file=sys.stderr)
            sys.exit(error.exit_code)
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "ken"
        _end(f"{error.format_message().rstrip('.')}; see `{command} --help`", error.exit_code)
    else:
        if status == _INTERRUPTED:
            _end("interrupted", _INTERRUPTED)
        sys.exit(status if isinstance(status, int) else 0)


_INTERRUPTED = 130


def _end(problem: str, status: int) -> None:
    """Say what went wrong on one line, whatever a file or a server put into it, and exit."""
    from ken.cli.plain import plain

    print(f"ken: {' '.join(plain(problem).split())}", file=sys.stderr)
    sys.exit(status)
