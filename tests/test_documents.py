"""Reading documents from files and folders, as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ken.core import BadInput, DataError, Passage
from ken.core.readers import read_corpus
from ken.sources.search.documents import read_documents


def write_pdf(path: Path, text: str, *, title: str = "", password: str = "") -> None:
    """A one-page pdf with a line of text, written by pypdf itself."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    page = writer.add_blank_page(300, 300)
    stream = DecodedStreamObject()
    stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
    stream = stream.flate_encode()
    font = DictionaryObject(
        {NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1")}
        | {NameObject("/BaseFont"): NameObject("/Helvetica")}
    )
    page[NameObject("/Contents")] = writer._add_object(stream)
    page[NameObject("/Resources")] = DictionaryObject(
        {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
    )
    if title:
        writer.add_metadata({"/Title": title})
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    writer.write(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "b.md").write_text(
        "intro\n\n```\n# not a heading\n```\n\n## The *real* heading ##\n\nBody.\n"
    )
    (tmp_path / "notes" / "under.md").write_text("Underlined\n==========\n\nBody.\n")
    (tmp_path / "a.txt").write_text("# plain text has no headings\n", encoding="utf-8")
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfmarked as UTF-8")
    (tmp_path / "page.HTML").write_text(
        "<html><head><title>A  page\n</title><style>p{}</style><script>var x = 'secret';</script></head>"
        "<body><h1>Shown</h1><p>One &amp; two</p><p>Three<br>Four</p><noscript>enable</noscript></body></html>"
    )
    (tmp_path / "untitled.htm").write_text("<h1>From <b>the</b> heading</h1>text")
    write_pdf(tmp_path / "paper.pdf", "Hello from a page", title="The paper")
    (tmp_path / ".hidden.md").write_text("hidden")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "c.md").write_text("hidden")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    return tmp_path


def test_a_folder_is_read_in_order_with_paths_as_ids_and_hidden_or_other_files_left_out(folder: Path) -> None:
    documents = list(read_documents(folder))
    assert [d.id for d in documents] == [
        "a.txt", "bom.txt", "notes/b.md", "notes/under.md", "page.HTML", "paper.pdf", "untitled.htm",
    ]  # fmt: skip
    assert [d.title for d in documents] == [
        "a", "bom", "The *real* heading", "Underlined", "A page", "The paper", "From the heading",
    ]  # fmt: skip
    assert all(Path(d.source).is_file() for d in documents)


def test_html_keeps_the_text_of_readers_and_its_paragraphs(folder: Path) -> None:
    page = next(read_documents(folder / "page.HTML"))
    assert "One & two\n\nThree\nFour" in page.text
    assert not any(word in page.text for word in ("secret", "p{}", "enable", "A page"))


def test_pdf_text_is_extracted(folder: Path) -> None:
    assert "Hello from a page" in next(read_documents(folder / "paper.pdf")).text


def test_a_byte_order_mark_is_not_text(folder: Path) -> None:
    assert next(read_documents(folder / "bom.txt")).text == "marked as UTF-8"


def make_bad(folder: Path, name: str) -> Path:
    path = folder / name
    match name:
        case "latin.txt":
            path.write_bytes("first\nna\xefve".encode("latin-1"))
        case "broken.pdf":
            path.write_bytes(b"%PDF-1.7\n1 0 obj << garbage")
        case "bomb.pdf":  # some hundred kilobytes whose page unpacks to an eighth of a gigabyte
            write_pdf(path, " " * (1 << 27))
        case "empty.pdf":
            path.write_bytes(b"")
        case "locked.pdf":
            write_pdf(path, "secret", password="pass")
        case "scanned.pdf":
            write_pdf(path, "")
        case "blank.md":
            path.write_text("  \n\n")
        case "folder.md":
            path.symlink_to(folder / "gone.md")
    return path


BAD = {
    "latin.txt": ":2: not UTF-8",
    "broken.pdf": "cannot be read",
    "bomb.pdf": "unpacks to far more than a page holds",
    "empty.pdf": "cannot be read",
    "locked.pdf": "encrypted with a password",
    "scanned.pdf": "text recognition",
    "blank.md": "holds no text",
    "folder.md": "cannot be read (No such file",
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_read_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / "good.txt").write_text("fine")
    make_bad(tmp_path, name)
    with pytest.raises(DataError) as raised:
        list(read_documents(tmp_path))
    assert name in str(raised.value)
    assert BAD[name] in str(raised.value)


def test_bad_files_can_be_collected_and_skipped(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("fine")
    for name in BAD:
        make_bad(tmp_path, name)
    bad: list[DataError] = []
    assert [d.id for d in read_documents(tmp_path, bad=bad)] == ["good.txt"]
    assert sorted(error.path.name for error in bad) == sorted(BAD)


def test_a_source_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="check the path"):
        list(read_documents(tmp_path / "nowhere"))
    (tmp_path / "image.png").write_bytes(b"")
    with pytest.raises(BadInput, match=r"holds no documents.*\.pdf"):
        list(read_documents(tmp_path))


def test_a_corpus_file_is_read_by_the_readers_of_core(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "1", "contents": "\\"Title\\"\\nText"}\n')
    (document,) = read_documents(path)
    assert (document.id, document.title, document.text) == ("1", "Title", "Text")


values = st.one_of(
    st.text(st.characters(exclude_categories=[]), max_size=5), st.none(), st.integers(), st.booleans(), st.just("1e999")
)
records = st.dictionaries(st.sampled_from(["id", "_id", "title", "text", "contents", "extra"]), values, max_size=5)
plain = st.fixed_dictionaries(
    {"id": st.text(max_size=3), "text": st.text(max_size=9)}, optional={"title": st.text(max_size=4)}
)
contents = st.fixed_dictionaries(
    {"id": st.text(max_size=3), "contents": st.sampled_from(['"T"\nx', "x", '""\n', '"a" b', ""])}
)
lines = st.one_of(
    st.one_of(plain, plain, contents, records).map(json.dumps),
    st.one_of(plain, contents).map(lambda r: json.dumps(r, ensure_ascii=False)),
    st.sampled_from(
        ["", "  ", "[]", "{", '{"id": "a", "text": "tab\tinside"}', '{"id": "1", "text": "a", "text": "b"}', "\ufeff{}"]
    ),
).map(lambda line: line.encode(errors="surrogatepass"))


@settings(max_examples=500, deadline=None)
@given(content=st.lists(lines, max_size=6).map(b"\n".join))
def test_the_fast_lane_reads_what_the_reader_of_core_reads(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("lane") / "corpus.jsonl"
    path.write_bytes(content)

    def outcome(read: object, *, skip: bool) -> tuple[list[Passage], list[str]]:
        found: list[Passage] = []
        bad: list[DataError] = []
        try:
            found.extend(read(path, bad=bad if skip else None))  # type: ignore[operator]
        except BadInput as error:
            return found, [str(error)]
        return found, [str(error) for error in bad]

    for skip in (False, True):
        assert outcome(read_documents, skip=skip) == outcome(read_corpus, skip=skip)
