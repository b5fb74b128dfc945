"""`ken mcp`."""

from __future__ import annotations

import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from ken.cli import options
from ken.core.errors import BadInput, Unsupported


def mcp(  # noqa: PLR0917 (typer reads the options from the signature)
    model: options.Models = None,
    index: options.Indexes = None,
    graph: options.Graph = "",
    http: Annotated[bool, typer.Option("--http", help="Streamable HTTP at /mcp, instead of stdin and stdout.")] = False,
    host: Annotated[str, typer.Option(help="For --http: the address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="For --http; 0 picks a free one.")] = 8081,
    client_key: options.ClientKey = None,
    results: Annotated[Path, typer.Option(help="Folder of the papers' results.")] = Path("results"),
    top_k: options.TopK = 3,
    base_url: options.BaseUrl = None,
    api_key: options.UpstreamKey = None,
    device: options.Device = None,
    timeout: options.Timeout = None,
    control_tokens: options.ControlTokens = None,
    decoder: options.Decoder = None,
) -> None:
    """Serve models and indexes to MCP clients: tools `ask`, `search` and `audit_question`.

    A client starts it as a command and talks to it over stdin and stdout; with --http it listens instead.
    """
    from ken.agents.ask import open_sources
    from ken.probing.loading import load_model

    if not model and not index:
        raise BadInput("there is nothing to serve: name a model with --model SPEC, an index with --index DIR, or both")
    given = options.given(
        base_url=base_url,
        api_key=api_key,
        device=device,
        timeout=timeout,
        control_tokens=control_tokens,
        decoder=decoder,
    )
    try:
        import anyio

        from ken.serving.access import keys_of
        from ken.serving.listen import listen
        from ken.serving.mcp_server import create_http_app, create_server
        from ken.serving.service import Service
    except ImportError as error:
        raise Unsupported("`ken mcp` needs the MCP SDK; run `pip install 'ken[serve]'`") from error
    with redirect_stdout(sys.stderr):  # the client reads stdout, and understands nothing but MCP
        service = Service(
            [load_model(spec, **given) for spec in model or ()],
            indexes=options.named_indexes(index, top_k),
            graph=open_sources(None, top_k, graph or None).graph,
            results=results,
            top_k=top_k,
        )
    server = create_server(service)
    if http:
        listen(
            create_http_app(server, host=host, keys=keys_of(client_key)),
            host=host,
            port=port,
            what="Ken's MCP server",
            path="/mcp",
            queue=service.queue,
        )
    else:
        # Ctrl-C ends it at once: the SDK would wait for a thread that waits for the next line of input.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        anyio.run(server.run_stdio_async)
