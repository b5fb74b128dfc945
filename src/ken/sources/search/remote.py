"""A client of the `/retrieve` protocol of Search-R1 (card 00 of the catalogue): any engine behind that protocol becomes
a source.
"""

from __future__ import annotations

import hashlib
from typing import Any

import httpx

from ken.core import Passage, SourceError
from ken.core.readers import split_contents
from ken.sources.patient import NoAnswer, Patient
from ken.sources.search.batching import BatchingRetriever
from ken.sources.search.unicode import well_formed


class RemoteRetriever(BatchingRetriever):
    """A `/retrieve` service behind the `Retriever` protocol. Concurrent searches travel in one request.

    url: of the service, with or without the final `/retrieve`.
    timeout: seconds for one request. retries: further attempts after a timeout, a dropped connection, or an answer of
        408, 425, 429 or 5xx, after `backoff`·2^i seconds with jitter.
    """

    def __init__(
        self, url: str, *, timeout: float = 30.0, retries: int = 3, backoff: float = 0.5, max_batch: int = 64
    ) -> None:
        url = url.rstrip("/")
        super().__init__(url if url.endswith("/retrieve") else f"{url}/retrieve", max_batch=max_batch)
        self._service = Patient(self.name, timeout=timeout, retries=retries, backoff=backoff)

    async def close(self) -> None:
        """Close the connections; searches that are still waiting are cancelled."""
        await super().close()
        await self._service.close()

    async def _search_batch(self, queries: list[str], k: int) -> list[list[Passage]]:
        reply = await self._post({"queries": queries, "topk": k, "return_scores": True})
        result = reply.get("result") if isinstance(reply, dict) else None
        if not isinstance(result, list) or len(result) != len(queries):
            raise self._unexpected(f"expected {{'result': [one list per query]}} for {len(queries)} queries")
        return [self._passages(entries)[:k] for entries in result]

    async def _post(self, request: dict[str, Any]) -> Any:
        try:
            response = await self._service.post(json=request)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise SourceError(
                f"{self.name} is not an address that can be asked ({error}); give http://HOST:PORT/retrieve"
            ) from error
        except NoAnswer as error:
            raise SourceError(
                f"the retriever {self.name} {error}; "
                "check that it runs and can be reached, or start one with `ken retrieve serve`"
            ) from error
        if response.status_code != 200:
            detail = " ".join(response.text.split())[:200]
            raise SourceError(
                f"the retriever {self.name} refused the request ({response.status_code}: {detail}); check the address"
            )
        try:
            return response.json()
        except (ValueError, RecursionError) as error:
            raise self._unexpected("the reply is not JSON") from error

    def _passages(self, entries: Any) -> list[Passage]:
        if not isinstance(entries, list):
            raise self._unexpected("expected a list of documents for each query")
        return [self._passage(entry) for entry in entries]

    def _passage(self, entry: Any) -> Passage:
        """A passage from `{"document": {…}, "score": s}`, or from the bare document of servers without scores."""
        document = entry.get("document", entry) if isinstance(entry, dict) else None
        if not isinstance(document, dict):
            raise self._unexpected("expected each entry to be an object with 'document'")
        score = entry.get("score")
        title, text = document.get("title") or "", document.get("text")
        if isinstance(contents := document.get("contents"), str):
            found, text = split_contents(contents)
            title = title or found
        if not isinstance(text, str) or not isinstance(title, str):
            raise self._unexpected("expected each document to have 'contents', or 'title' and 'text'")
        identifier = document.get("id", document.get("_id"))
        if identifier is None or identifier == "":
            identifier = hashlib.blake2b(f"{title}\n{text}".encode(errors="replace"), digest_size=8).hexdigest()
        if score is not None and not isinstance(score, int | float):
            raise self._unexpected("expected 'score' to be a number")
        identifier, title, text = map(well_formed, (str(identifier), title, text))
        return Passage(id=identifier, text=text, title=title, score=score, source=self.name)

    def _unexpected(self, problem: str) -> SourceError:
        return SourceError(
            f"the retriever {self.name} does not speak the /retrieve protocol: {problem}; check the address"
        )
