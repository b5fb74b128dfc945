"""The folder of an audit: `run.json` says what was asked for, so that an audit is resumed only as the same audit.

Beside it lie trajectories.jsonl (see `log`), and audit.json and audit.html, which can be made again from these two.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue, ValidationError

import ken
from ken.core import BadInput, Question, Sampling
from ken.core.files import write_whole
from ken.core.frozen import Frozen

RUN, LOG, REPORT = "run.json", "trajectories.jsonl", "audit.json"

Settings = TypeVar("Settings", bound=Frozen)


class AuditSettings(Frozen):
    """What an audit was asked to do, written to `run.json` before the first question. A run is resumed only under equal
    settings.

    strategies: in the order of the report; closed book is always among them, as the oracle of what the model knows.
    samples: closed-book samples per question, drawn at `oracle_temperature`; 0 leaves only the greedy oracle.
    threshold: share of right samples from which a question counts as one the model can answer alone.
    questions_digest: of all questions, so that a changed file is noticed.

    The last four do not make it another audit: the version of Ken that began; the sampling parameters that the server
    refused (`dropped`); why the last run stopped before its end, "" if it did not or was interrupted (`stopped`); and
    the model that judged the answers, "" for none (`judge`), which may come later.
    """

    model: str
    strategies: tuple[str, ...]
    index: str = ""
    graph: str = ""
    top_k: int = 3
    samples: int = 8
    threshold: float = 0.5
    sampling: Sampling = Sampling()
    oracle_temperature: float = 1.0
    questions_digest: str = ""
    questions_count: int = 0
    version: str = ken.__version__
    dropped: tuple[str, ...] = ()
    stopped: str = ""
    judge: str = ""

    @property
    def attempts(self) -> int:
        """How many attempts make the audit complete."""
        return self.questions_count * (len(self.strategies) + self.samples)


_FOUND = {"version", "dropped", "stopped", "judge"}
_DIGEST = {"questions_digest", "questions_count"}


def check_keepable(questions: Iterable[Question]) -> None:
    """Raises `BadInput` for questions whose attempts could not be told apart, or not be written."""
    counts: Counter[str] = Counter()
    for question in questions:
        counts[question.id] += 1
        try:
            question.model_dump_json()
        except ValueError as error:
            raise BadInput(f"the question {question.id!r} cannot be written as JSON ({error}); clean it") from error
    for identifier, times in counts.most_common(1):
        if times > 1:
            raise BadInput(f"the question id {identifier!r} is used {times} times; ids must be unique")


def digest(questions: Iterable[Question]) -> str:
    """A short hash of ids, texts and golds."""
    return digest_of([question.id, question.text, list(question.answers)] for question in questions)


def digest_of(records: Iterable[JsonValue]) -> str:
    """A short hash of what was asked about, so that a changed file is noticed."""
    hasher = hashlib.blake2b(digest_size=8)
    for record in records:
        hasher.update(json.dumps(record).encode())
    return hasher.hexdigest()


def claim_folder(out: Path, settings: AuditSettings) -> AuditSettings:
    """Make `out` the folder of this audit, or check that it already is; the settings with what was found earlier.

    Raises `BadInput` when it holds something else, which is then left as it is.
    """
    return claim(out, settings, RUN, one="an audit", none="no audit")


def claim(out: Path, settings: Settings, file: str, *, one: str, none: str) -> Settings:
    """Make `out` the folder of the run that `settings` describe, or check that it already is; the settings that stand
    in `file` of the folder, with what was found earlier. one, none: what such a folder holds or lacks, in words.

    Raises `BadInput` when it holds something else, which is then left as it is.
    """
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file; name a folder with --out")
    path = out / file
    with saving(out):
        if path.exists():
            before = _read(path, type(settings))
            if changed := _changes(before, settings):
                raise BadInput(
                    f"{out} holds {one} with other settings ({'; '.join(changed)}); choose another --out, or delete it"
                )
            return before
        # A kill while the settings were written leaves only their temporary file.
        if out.exists() and any(not entry.name.startswith(f".{file}.") for entry in out.iterdir()):
            raise BadInput(f"{out} is not empty and holds {none}; choose another --out")
        out.mkdir(parents=True, exist_ok=True)
    save(path, settings.model_dump_json(indent=2) + "\n")
    return settings


def _changes(before: Frozen, now: Frozen) -> list[str]:
    """In words, what differs between the settings of two runs."""
    old, new = before.model_dump(), now.model_dump()
    old, new = {**old, **old.pop("sampling")}, {**new, **new.pop("sampling")}
    names = [name for name in new if name not in _FOUND | _DIGEST and old[name] != new[name]]
    changed = [f"{name} was {old[name]!r} and is {new[name]!r}" for name in names]
    if old["questions_count"] != new["questions_count"]:
        changed.append(f"there were {old['questions_count']} questions and are {new['questions_count']}")
    elif old["questions_digest"] != new["questions_digest"]:
        changed.append("the questions or their answers are others")
    return changed


def read_settings(out: Path) -> AuditSettings:
    """The settings of the audit in `out`. Raises `BadInput` when there is none or it cannot be read."""
    path = out / RUN
    if not path.is_file():
        raise BadInput(f"{out} holds no audit (there is no {RUN}); name the --out folder of `ken audit`")
    return _read(path, AuditSettings)


def _read(path: Path, kind: type[Settings]) -> Settings:
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = f"{path} cannot be read ({error.errors()[0]['msg']}); it was edited or is of another version"
        raise BadInput(problem) from error


def write_settings(out: Path, settings: AuditSettings) -> None:
    save(out / RUN, settings.model_dump_json(indent=2) + "\n")


def save(path: Path, text: str) -> None:
    """Write a file of the audit whole or not at all. Raises `BadInput` when it cannot be written."""
    with saving(path):
        write_whole(path, text.encode("utf-8", errors="replace"))


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turn a full disk or missing permission into `BadInput`."""
    try:
        yield
    except OSError as error:
        problem = f"{path} cannot be written ({error.strerror or error}); what was answered before is kept"
        raise BadInput(f"{problem}: free the way and give the same command again, or choose another --out") from error
