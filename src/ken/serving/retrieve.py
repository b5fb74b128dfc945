"""An index behind the `/retrieve` protocol of Search-R1 (card 00 of the catalogue; its `retrieval_server.py`).

    POST /retrieve {"queries": ["…"], "topk": 3, "return_scores": true}
    -> {"result": [[{"document": {"id": "…", "contents": "\\"title\\"\\ntext"}, "score": 1.5}, …], …]}

Without `return_scores` each entry is the document itself. With a rewriter, queries of conversations are rewritten first
(ConvSearch-R1, card 17):

    POST /rewrite {"history": [{"query": "…", "answer": "…"}, …], "query": "and when?", "topk": 3}
    -> {"thinking": "…", "rewrite": "…", "hits": [{"document": {…}, "score": 1.5}, …]}

There is no login: listen on a loopback address, or behind a proxy.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

import ken
from ken.agents.rewrite import rewrite
from ken.core import BadInput, ModelError, Passage, SourceError
from ken.core.conversation import Exchange
from ken.core.readers import join_contents
from ken.models import Model
from ken.serving.listen import listen
from ken.sources import Sources
from ken.sources.search.index import Index
from ken.sources.search.retriever import IndexRetriever

MAX_QUERIES = 1024
MAX_EXCHANGES = 200
MAX_TOPK = 1000
MAX_QUERY = 20_000  # characters


class RetrieveRequest(BaseModel):
    """What the trainers of Search-R1 send."""

    queries: list[Annotated[str, Field(max_length=MAX_QUERY)]] = Field(min_length=1, max_length=MAX_QUERIES)
    topk: int | None = Field(default=None, ge=1, le=MAX_TOPK)
    return_scores: bool = False


class RewriteRequest(BaseModel):
    """A query, and what was said before it, oldest first."""

    query: str = Field(max_length=MAX_QUERY)
    history: list[Exchange] = Field(default=[], max_length=MAX_EXCHANGES)
    topk: int | None = Field(default=None, ge=1, le=MAX_TOPK)


def create_app(index: Index, *, topk: int = 3, rewriter: Model | None = None) -> FastAPI:
    """The service over `index`. `topk`: how many passages when a request does not say. rewriter: of queries; without
    one there is no /rewrite.

    Answers 400 for an empty query and 422 for a request of another shape or over the limits (`MAX_QUERIES`, `MAX_TOPK`,
    `MAX_QUERY`), both with a sentence that says what is wrong.
    """
    app = FastAPI(title="Ken retrieve", version=ken.__version__, docs_url=None, redoc_url=None)

    @app.post("/retrieve")
    def retrieve(request: RetrieveRequest) -> dict[str, Any]:  # not async: it runs in a thread
        try:
            results = index.search_many(request.queries, request.topk or topk)
        except BadInput as error:
            raise HTTPException(400, str(error)) from error
        except SourceError as error:
            raise HTTPException(503, str(error)) from error
        return {"result": [[_entry(passage, request.return_scores) for passage in passages] for passages in results]}

    if rewriter is not None:
        model = rewriter

        @app.post("/rewrite")
        async def rewritten(request: RewriteRequest) -> dict[str, Any]:
            if not request.query.strip():
                raise HTTPException(400, "the query is empty; send what the user asks now")
            sources = Sources(search=IndexRetriever(index), top_k=request.topk or topk)
            try:
                made = await rewrite(request.history, request.query, model=model, sources=sources)
            except BadInput as error:
                raise HTTPException(400, str(error)) from error
            except (ModelError, SourceError) as error:
                raise HTTPException(503, str(error)) from error
            hits = [_entry(passage, with_score=True) for passage in made.hits]
            return {"thinking": made.thinking, "rewrite": made.rewrite, "hits": hits}

    @app.get("/healthz")
    def healthz() -> dict[str, Any]:
        return {"status": "ok", "documents": len(index)}

    return app


def serve(index: Index, *, host: str = "127.0.0.1", port: int = 8000, rewriter: Model | None = None) -> None:
    """Serve `create_app` until interrupted. Prints the address once it accepts requests, also when `port` is 0.

    Raises `BadInput` for a port in use.
    """
    listen(create_app(index, rewriter=rewriter), host=host, port=port, what=str(index.path), path="/retrieve")


def _entry(passage: Passage, with_score: bool) -> dict[str, Any]:
    contents = join_contents(" ".join(passage.title.split()), passage.text)
    document = {"id": passage.id, "contents": contents}
    return {"document": document, "score": passage.score} if with_score else document
