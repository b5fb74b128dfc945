"""A paper's metadata through arXiv's API, as an entry of the catalogue.

The format: https://info.arxiv.org/help/api/user-manual.html, section 3.3; errors: 3.4.
The reply is data from elsewhere: it may be large, slow, no XML, or XML that defines entities, and does no harm.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Collection
from datetime import date
from typing import TYPE_CHECKING
from xml.parsers import expat

import ken
from ken.core.errors import BadInput, SourceError
from ken.core.frozen import Frozen
from ken.papers.catalogue import clean
from ken.papers.paper import ARXIV_ID, Entry

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

API = "https://export.arxiv.org/api/query"

MAX_BYTES = 1_000_000
"""Of a reply. One paper's takes a few thousand."""

OWN_NUMBERS = 1001
"""The number of the first paper that a user adds: far from those that Ken ships, now and later."""

_ATOM = "{http://www.w3.org/2005/Atom}"
_ARXIV = "{http://arxiv.org/schemas/atom}"
_NAME = 30  # characters: what a table has room for
_RESERVED = frozenset({"add", "digest", "show"})  # commands of `ken papers`


class Metadata(Frozen):
    """What arXiv says of a paper. published: the day of its first version, YYYY-MM-DD. code: a repository that its
    comment or abstract names, "" for none."""

    arxiv: str
    title: str
    published: str
    authors: int
    code: str


def arxiv_id(text: str) -> str:
    """The identifier in `2503.09516`, `arXiv:2503.09516v2`, `hep-th/9901001` or an address of its page; no version.

    Raises `BadInput` for anything else.
    """
    found = re.sub(r"^(https?://(www\.|export\.)?arxiv\.org/(abs|pdf)/|arxiv:)", "", text.strip(), flags=re.IGNORECASE)
    found = re.sub(r"(v\d+)?(\.pdf)?$", "", found)
    if not re.fullmatch(ARXIV_ID, found):
        raise BadInput(f"{text!r} is no arXiv identifier; it looks like 2503.09516 or hep-th/9901001")
    return found


def look_up(arxiv: str, *, api: str = API, timeout: float = 30.0) -> Metadata:
    """Ask arXiv for a paper by its identifier. timeout: seconds for the whole reply.

    Raises `BadInput` when arXiv has no such paper or `api` is no address, `SourceError` when it does not answer or with
    something else than its Atom format.
    """
    import httpx

    headers = {"User-Agent": f"ken/{ken.__version__}", "Accept-Encoding": "identity"}
    body = b""
    try:
        ends = time.monotonic() + timeout
        with (
            httpx.Client(timeout=timeout, follow_redirects=True, headers=headers) as client,
            client.stream("GET", api, params={"id_list": arxiv, "max_results": 1}) as response,
        ):
            for piece in response.iter_raw():
                body += piece
                if len(body) > MAX_BYTES:
                    raise SourceError(f"{api} sends more than {MAX_BYTES:,} bytes for one paper; check the address")
                if time.monotonic() > ends:
                    raise httpx.ReadTimeout("the reply did not end")
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise BadInput(f"{api} is not an address that can be asked ({error}); give http://HOST/PATH") from error
    except httpx.HTTPError as error:
        problem = str(error) or type(error).__name__
        raise SourceError(f"arXiv does not answer at {api} ({problem}); check the network, or try later") from error
    if response.status_code in (429, 503):
        raise SourceError(f"arXiv asks for a pause ({response.status_code}); try again in a minute")
    if response.status_code >= 400 and b"<feed" not in body:  # it also explains its refusals in Atom
        raise SourceError(f"{api} answers {response.status_code}; try later, or check the address")
    return parse_reply(body, arxiv)


def parse_reply(body: bytes, arxiv: str) -> Metadata:
    """The paper in a reply of the API. Raises as `look_up` does."""
    feed = _parse(body)
    entry = feed.find(f"{_ATOM}entry")
    says = _text(entry, "id")
    if entry is not None and "/api/errors" in says:
        raise BadInput(
            f"arXiv refuses {arxiv}: {_text(entry, 'summary') or 'it gives no reason'}; check the identifier"
        )
    title, published = _text(entry, "title"), _text(entry, "published")[:10]
    if entry is None or not title:
        raise BadInput(f"arXiv has no paper {arxiv}; check the identifier")
    if not re.fullmatch(rf"https?://arxiv\.org/abs/{re.escape(arxiv)}(v\d+)?", says):
        raise SourceError(f"arXiv answers with another paper ({says}) than {arxiv}; try later")
    try:
        date.fromisoformat(published)
    except ValueError as error:
        raise SourceError(f"arXiv's reply gives no date for {arxiv}; try later") from error
    said = f"{_text(entry, 'comment', _ARXIV)} {_text(entry, 'summary')}"
    code = re.search(r"https?://github\.com/[\w.-]+/[\w.-]*\w", said)
    authors = len(entry.findall(f"{_ATOM}author"))
    return Metadata(
        arxiv=arxiv, title=title, published=published, authors=max(authors, 1), code=code[0] if code else ""
    )


def as_entry(
    found: Metadata,
    *,
    known: Collection[Entry],
    listed: str,
    name: str = "",
    inside: str = "",
    outside: str = "",
    signal: str = "",
    code: str = "",
    summary: str = "",
) -> Entry:
    """An entry for a user's catalogue.

    known: the entries there are, from which slug and number must differ. listed: the day on which it is added.
    name: by default what stands before the title's colon, or its first words.

    Raises `BadInput` when the paper is known already.
    """
    for e in known:
        if e.arxiv == found.arxiv:
            raise BadInput(f"{e.name} ({found.arxiv}) is in the catalogue already; see `ken papers {e.slug}`")
    title = clean(found.title)
    name = clean(name) or _name(title)
    taken = {e.slug for e in known} | _RESERVED
    slug = _slug(name) or _slug(f"arxiv {found.arxiv}")
    if slug in taken or slug.isdecimal():
        slug = _slug(f"{slug} {found.arxiv}")
    words = {"inside": inside, "outside": outside, "signal": signal, "summary": summary}
    return Entry(
        number=max([OWN_NUMBERS - 1, *(e.number for e in known)]) + 1,
        slug=slug,
        name=name,
        title=title,
        arxiv=found.arxiv,
        year=int(found.published[:4]),
        date=found.published,
        authors=found.authors,
        code=code.strip() or found.code,
        listed=listed,
        **{word: clean(text) for word, text in words.items()},
    )


def _parse(body: bytes) -> Element:
    """The root of a document without a DOCTYPE, and so without entities that multiply or read files."""
    from xml.etree import ElementTree

    def refuse(*_: object) -> None:
        raise SourceError("arXiv's reply declares a document type, which its format does not have; check the address")

    guard = expat.ParserCreate()
    guard.StartDoctypeDeclHandler = refuse
    try:
        guard.Parse(body, True)
        return ElementTree.fromstring(body)
    except (expat.ExpatError, ElementTree.ParseError, LookupError, ValueError) as error:
        raise SourceError(f"arXiv's reply is not XML ({error}); try later, or check the address") from error


def _text(entry: Element | None, tag: str, space: str = _ATOM) -> str:
    return clean((entry.findtext(f"{space}{tag}") if entry is not None else "") or "")


def _name(title: str) -> str:
    short = title.partition(":")[0].strip()
    if len(short) <= _NAME:
        return short or title[:_NAME]
    words = short.split()
    kept = words[0][:_NAME]
    for word in words[1:]:
        if len(kept) + 1 + len(word) > _NAME:
            break
        kept += f" {word}"
    return kept


def _slug(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", letters).strip("-")[:60].rstrip("-")
