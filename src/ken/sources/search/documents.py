"""Read documents: a corpus file, one document, or a folder of md, txt, html and pdf files."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ken.core import BadInput, DataError, Passage
from ken.sources.search.plain_lines import read_lines

SUFFIXES = (".md", ".txt", ".html", ".htm", ".pdf")

# Their text is not for readers.
_HIDDEN_TAGS = ("script", "style", "template", "noscript")


def read_documents(source: str | Path, *, bad: list[DataError] | None = None) -> Iterator[Passage]:
    """Yield the documents of `source`, one passage each.

    A folder is read recursively in sorted order; files and folders whose names start with a dot are skipped, and so are
    files of other kinds. There `id` is the path inside the folder with forward slashes, `title` the first heading, the
    `<title>`, the title of the pdf, or else the name of the file. A file that is none of md, txt, html, pdf is read as
    a corpus (`ken.core.readers`).

    Raises `BadInput` when there is nothing to read, `DataError` for a file that cannot be read, unless `bad` is given:
    then such errors are collected there and reading goes on.
    """
    path = Path(source)
    if not path.exists():
        raise BadInput(f"there is no file or folder {path}; check the path")
    if path.is_dir():
        files = [(name, path / name) for name in _document_names(path)]
        if not files:
            raise BadInput(f"{path} holds no documents; expected files ending in {', '.join(SUFFIXES)}")
    elif path.suffix.lower() in SUFFIXES:
        files = [(path.name, path)]
    else:
        yield from read_lines(path, bad=bad)
        return
    for name, file in files:
        try:
            yield _read_file(name, file)
        except DataError as error:
            if bad is None:
                raise
            bad.append(error)


def lines_of(path: Path, identifier: str) -> list[int]:
    """The 1-based lines of a jsonl corpus whose record has this id. For error messages: the readers do not keep line
    numbers.
    """
    lines = []
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                record = json.loads(raw)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict) and str(record.get("id", record.get("_id"))) == identifier:
                lines.append(number)
    return lines


def _document_names(folder: Path) -> list[str]:
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                names.append((Path(parent) / name).relative_to(folder).as_posix())
    return sorted(names)


def _read_file(name: str, path: Path) -> Passage:
    suffix = path.suffix.lower()
    try:
        name.encode()
        if suffix == ".pdf":
            title, text = _pdf(path)
        else:
            raw = path.read_bytes().decode("utf-8-sig")
            title, text = _html(raw) if suffix in (".html", ".htm") else (_heading(raw) if suffix == ".md" else "", raw)
    except UnicodeEncodeError as error:
        raise DataError(
            path.name.encode(errors="replace").decode(), 1, "the file name is not UTF-8; rename it"
        ) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            path, line, f"not UTF-8 (byte {error.start}); convert the file, for example with iconv"
        ) from error
    except OSError as error:
        raise DataError(path, 1, f"cannot be read ({error.strerror}); check its permissions") from error
    text = text.strip()
    if not text:
        hint = "; a scanned pdf needs text recognition first" if suffix == ".pdf" else ""
        raise DataError(path, 1, f"the file holds no text; remove it or skip bad files{hint}")
    return Passage(id=name, title=" ".join(title.split()) or path.stem, text=text, source=str(path))


def _heading(markdown: str) -> str:
    """The text of the first heading (`# …`, or underlined), not counting those inside fenced code."""
    fence = ""
    before = ""
    for line in markdown.splitlines():
        stripped = line.strip()
        if fence:
            fence = "" if stripped.startswith(fence) else fence
        elif stripped.startswith(("```", "~~~")):
            fence = stripped[:3]
        elif match := re.match(r"#{1,6}\s+(.*?)\s*#*$", stripped):
            return match[1]
        elif before and not before.startswith("---") and re.fullmatch(r"=+|-{2,}", stripped):
            return before
        before = stripped
    return ""


def _html(markup: str) -> tuple[str, str]:
    """(title, text) of a page. Blocks become paragraphs, so that chunks can end between them."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(markup, "html.parser")
    for tag in soup(_HIDDEN_TAGS):
        tag.decompose()
    title = soup.title.get_text() if soup.title else ""
    if soup.title:
        soup.title.decompose()
    if not title.strip() and (heading := soup.find(["h1", "h2"])):
        title = heading.get_text(" ")
    for tag in soup(
        ["p", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "blockquote", "pre", "table"]
    ):
        tag.append("\n\n")
        tag.insert(0, "\n\n")
    for tag in soup("br"):
        tag.replace_with("\n")
    for tag in soup(["td", "th"]):
        tag.append(" ")
    text = "\n".join(re.sub(r"[ \t\r\f\v\u00a0]+", " ", line).strip() for line in soup.get_text().split("\n"))
    return title, re.sub(r"\n{3,}", "\n\n", text)


def _pdf(path: Path) -> tuple[str, str]:
    """(title, text) of a pdf; pages become paragraphs."""
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it would warn about is either harmless or raised below
    pages: list[str] = []
    title: object = None
    try:
        with path.open("rb") as file:
            reader = PdfReader(file)
            if reader.is_encrypted and not reader.decrypt(""):
                raise DataError(path, 1, "the pdf is encrypted with a password; save a copy without one")
            for page in reader.pages:
                pages.append(page.extract_text().strip())
            title = reader.metadata.title if reader.metadata else None
    except (DataError, OSError):
        raise
    except Exception as error:  # pypdf meets broken files with many kinds of errors
        where = f"after page {len(pages)}" if pages else "from its start"
        if "Limit" in type(error).__name__:  # a class that pypdf 5 does not have
            problem = f"the pdf unpacks to far more than a page holds {where}; save it again or remove it"
            raise DataError(path, 1, problem) from error
        raise DataError(
            path, 1, f"the pdf cannot be read {where} ({type(error).__name__}); save it again or remove it"
        ) from error
    text = "\n\n".join(part for part in pages if part)
    return title if isinstance(title, str) else "", text.encode(errors="replace").decode()
