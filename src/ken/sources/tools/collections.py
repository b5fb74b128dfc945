"""Collections of tools with the questions that need them, from files (card 49, loaders).

BEIR's layout, in which ToolLens comes (github.com/quchangle1/COLT, datasets/ToolLens): `corpus.jsonl` with `_id`,
`title`, `text`; `queries.jsonl` with `_id`, `text`; `qrels/train.tsv` and `qrels/test.tsv` with a header and query,
tool and score. MetaTool's (github.com/HowieHwong/MetaTool, dataset): descriptions, single-tool and two-tool questions,
and items that ask whether any tool is needed.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ken.core import BadInput

TOOLLENS = "get datasets/ToolLens of https://github.com/quchangle1/COLT and give its folder"
METATOOL = "get the folder dataset of https://github.com/HowieHwong/MetaTool and give it"
MOST_FIELD = 10 * 2**20


@dataclass(frozen=True, slots=True)
class ToolQuestion:
    """A question and the tools that it needs; none for a question that needs none."""

    id: str
    text: str
    tools: frozenset[str]


@dataclass(frozen=True)
class ToolCollection:
    """documents: a tool's text, by its id. questions: by split."""

    documents: dict[str, str]
    questions: dict[str, list[ToolQuestion]] = field(default_factory=dict)

    def unseen_sets(self, share: float = 0.2, *, seed: int = 0) -> ToolCollection:
        """The same questions split anew, so that no set of tools in "test" occurs in "train": `share` of the sets are
        held out. (In ToolLens' own split all test sets occur in training.) Raises `BadInput` when a split is empty."""
        import numpy as np

        everything = [question for split in self.questions.values() for question in split]
        sets = sorted({tuple(sorted(question.tools)) for question in everything})
        order = np.random.default_rng(seed).permutation(len(sets))
        held = {frozenset(sets[int(i)]) for i in order[: round(share * len(sets))]}
        split = {
            "train": [question for question in everything if question.tools not in held],
            "test": [question for question in everything if question.tools in held],
        }
        if not all(split.values()):
            raise BadInput(f"{len(sets)} sets of tools cannot be split so that {share:g} of them are held out")
        return ToolCollection(self.documents, split)


def load_beir(folder: Path | str, *, splits: Sequence[str] = ("train", "test")) -> ToolCollection:
    """A collection in BEIR's layout; a split whose qrels are not there is left out.

    Raises `BadInput` that says what is missing and where it comes from, or which line cannot be read.
    """
    root = Path(folder)
    documents = {
        _of(row, "_id", root / "corpus.jsonl", line): " ".join(
            part for part in (str(row.get("title") or ""), str(row.get("text") or "")) if part
        )
        for line, row in _json_lines(root / "corpus.jsonl", TOOLLENS)
    }
    texts = {
        _of(row, "_id", root / "queries.jsonl", line): _of(row, "text", root / "queries.jsonl", line)
        for line, row in _json_lines(root / "queries.jsonl", TOOLLENS)
    }
    questions: dict[str, list[ToolQuestion]] = {}
    for split in splits:
        places = [root / "qrels" / f"{split}.tsv", root / f"{split}.tsv"]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            continue
        needed: dict[str, set[str]] = {}
        for line, (query, tool, score) in _qrels(path):
            if query not in texts or tool not in documents:
                what = f"question {query!r}" if query not in texts else f"tool {tool!r}"
                raise BadInput(f"{path}, line {line}: there is no {what}; the files belong to different collections")
            if score > 0:
                needed.setdefault(query, set()).add(tool)
        questions[split] = [ToolQuestion(query, texts[query], frozenset(tools)) for query, tools in needed.items()]
    if not questions:
        raise BadInput(f"there are no qrels for {' or '.join(splits)} in {root}; {TOOLLENS}")
    return ToolCollection(documents, questions)


def load_metatool(folder: Path | str) -> ToolCollection:
    """MetaTool as a collection. Its splits: "single" (data/all_clean_data.csv), "multi" (data/multi_tool_query_golden
    .json) and, where tmp_dataset/Task1.json is there, "awareness": questions of which those without tools need none
    (those with are under "tool", a stand-in name, since the file does not say which). Files may also lie side by side.

    Raises `BadInput` that says what is missing and where it comes from, or what cannot be read.
    """
    root = Path(folder)
    documents = {str(name): str(text) for name, text in _json(_found(root, "plugin_des.json"), dict).items()}
    single: list[ToolQuestion] = []
    path = _found(root, "data/all_clean_data.csv")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            csv.field_size_limit(MOST_FIELD)
            rows = csv.DictReader(file)
            if not {"Query", "Tool"} <= set(rows.fieldnames or ()):
                raise BadInput(f"{path} has no columns Query and Tool; {METATOOL}")
            for number, row in enumerate(rows):
                single.append(ToolQuestion(f"single-{number}", str(row["Query"]), frozenset({str(row["Tool"])})))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read ({error}); {METATOOL}") from error
    path = _found(root, "data/multi_tool_query_golden.json")
    multi = []
    for number, row in enumerate(_json(path, list)):
        if not isinstance(row, dict) or not isinstance(row.get("tool"), list) or "query" not in row:
            raise BadInput(f"{path}, entry {number + 1}: a question has a query and a list of tools; {METATOOL}")
        multi.append(ToolQuestion(f"multi-{number}", str(row["query"]), frozenset(map(str, row["tool"]))))
    questions = {"single": single, "multi": multi}
    awareness = _found(root, "tmp_dataset/Task1.json", needed=False)
    if awareness is not None:
        questions["awareness"] = [
            ToolQuestion(
                f"awareness-{number}",
                str(row.get("query", "")),
                frozenset({"tool"} if row.get("label") == "positive" else ()),
            )
            for number, row in enumerate(_json(awareness, list))
            if isinstance(row, dict)
        ]
    return ToolCollection(documents, questions)


def _json_lines(path: Path, source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise BadInput(f"there is no {path}; {source}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read ({error}); {source}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise BadInput(f"{path}, line {number}, is no JSON ({error})") from error
            if not isinstance(row, dict):
                raise BadInput(f"{path}, line {number}, is no JSON object")
            yield number, row


def _of(row: dict[str, Any], name: str, path: Path, line: int) -> str:
    if name not in row:
        raise BadInput(f"{path}, line {line}, has no {name!r}")
    return str(row[name])


def _qrels(path: Path) -> Iterator[tuple[int, tuple[str, str, float]]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        cells = line.split("\t")
        if not line.strip() or (number == 1 and cells[-1] == "score"):
            continue
        try:
            query, tool, score = cells
            yield number, (query, tool, float(score))
        except ValueError as error:
            raise BadInput(f"{path}, line {number}: a line is query, tool and score, with tabs between") from error


def _found(root: Path, name: str, *, needed: bool = True) -> Any:
    for place in (root / name, root / Path(name).name):
        if place.is_file():
            return place
    if needed:
        raise BadInput(f"there is no {root / name}; {METATOOL}")
    return None


def _json(path: Path, kind: type) -> Any:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise BadInput(f"{path} cannot be read ({error}); {METATOOL}") from error
    if not isinstance(read, kind):
        raise BadInput(f"{path} holds no JSON {'object' if kind is dict else 'list'}; {METATOOL}")
    return read
