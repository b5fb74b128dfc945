"""`ken serve`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ken.cli import options
from ken.core.errors import BadInput, Unsupported

if TYPE_CHECKING:
    from ken.papers.mail import Smtp

MEBIBYTE = 1024 * 1024


def serve(  # noqa: PLR0917 (typer reads the options from the signature)
    context: typer.Context,
    model: options.Models = None,
    index: options.Indexes = None,
    graph: options.Graph = "",
    strategy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Offer only this one; may be repeated. Default: all.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that others can reach needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8080,
    client_key: options.ClientKey = None,
    rate: Annotated[
        float | None, typer.Option(metavar="N", help="Requests a minute that one key or address may make.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions worked on at once.")] = 100,
    queue: Annotated[
        int, typer.Option(min=0, help="Questions that may wait for their turn; more are refused with status 429.")
    ] = 400,
    request_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="The longest for a question, waiting included, and for a request to arrive."
        ),
    ] = 300.0,
    max_request: Annotated[float, typer.Option(metavar="MB", help="The largest request, in MiB.")] = 1.0,
    max_upload: Annotated[float, typer.Option(metavar="MB", help="The largest upload of files, in MiB.")] = 256.0,
    grace: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long questions may go on when the server is to end.")
    ] = 30.0,
    log_texts: Annotated[bool, typer.Option("--log-texts", help="Write questions and answers into the log.")] = False,
    data: Annotated[Path, typer.Option(help="Folder for uploads, audits and subscriptions.")] = Path("ken-data"),
    runs: Annotated[Path, typer.Option(help="Folder in which training runs are looked for.")] = Path(),
    results: Annotated[Path, typer.Option(help="Folder of the papers' results.")] = Path("results"),
    top_k: options.TopK = 3,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0 is greedy.")] = 0.0,
    max_tokens: options.MaxTokens = 512,
    base_url: options.BaseUrl = None,
    api_key: options.UpstreamKey = None,
    device: options.Device = None,
    timeout: options.Timeout = None,
    control_tokens: options.ControlTokens = None,
    decoder: options.Decoder = None,
) -> None:
    """Serve models and indexes: web pages, and an OpenAI-compatible API that searches when the model does not know.

    Requests are logged to standard error, a line of JSON each, without questions and answers unless asked for.
    """
    from ken.agents.ask import open_sources
    from ken.probing.loading import load_model

    if max_request <= 0 or max_upload <= 0:
        raise BadInput("--max-request and --max-upload are in MiB and must be more than 0")
    try:
        from ken.serving.access import Access, check_host, keys_of
        from ken.serving.app import create_app
        from ken.serving.data_folder import held
        from ken.serving.listen import listen
        from ken.serving.logs import JsonLines, Log
        from ken.serving.queue import Queue
        from ken.serving.service import Service
    except ImportError as error:
        raise Unsupported("serving needs fastapi and uvicorn; run `pip install 'ken[serve]'`") from error
    keys = keys_of(client_key)
    check_host(host, keys)
    access = Access(
        keys=keys,
        rate=rate,
        request_bytes=int(max_request * MEBIBYTE),
        upload_bytes=int((max_upload + 1) * MEBIBYTE),
        seconds=request_timeout,
    )
    given = options.given(
        base_url=base_url,
        api_key=api_key,
        device=device,
        timeout=timeout,
        control_tokens=control_tokens,
        decoder=decoder,
    )
    places, log = Queue(concurrency, queue), Log(texts=log_texts)
    logging.getLogger("ken.serving").addHandler(JsonLines(log))
    if any(spec.startswith("openai/") for spec in model or ()):
        import openai.resources.chat  # noqa: F401 (takes a second: now, not when the first question waits for it)
    indexes = options.named_indexes(index, top_k)
    with held(data):
        service = Service(
            # A model behind an address gets as many requests at once as there are questions.
            [load_model(spec, **given, **_at_once(spec, concurrency)) for spec in model or ()],
            indexes=indexes,
            graph=open_sources(None, top_k, graph or None).graph,
            data=data,
            runs=runs,
            results=results,
            sampling=options.sampling(temperature, max_tokens, 0),
            mail=_mail(context),
            top_k=top_k,
            offered=strategy,
            queue=places,
            seconds=request_timeout,
        )
        app = create_app(service, access=access, log=log)
        note = "" if keys else "without --api-key, only programs on this machine may ask"
        listen(app, host=host, port=port, note=note, queue=places, grace=grace, log=log)


def _at_once(spec: str, concurrency: int) -> dict[str, Any]:
    return {"concurrency": concurrency, "http": "aiohttp"} if spec.startswith("openai/") else {}


def _mail(context: typer.Context) -> Smtp | None:
    """The mail server of `ken papers digest`, whose settings in ken.toml are the server's too; None unless they are all
    there, with the address that links in mails lead to."""
    from ken.papers.mail import password, settings

    digest = (context.find_root().default_map or {}).get("papers", {}).get("digest", {})
    given = {name: digest[name] for name in ("host", "port", "user", "security", "sender", "url") if name in digest}
    if not {"host", "sender", "url"} <= given.keys():
        return None
    smtp = settings(**given)
    password(smtp)  # now, not when the first visitor subscribes
    return smtp
