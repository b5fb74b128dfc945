"""A small world for tests of ask and audit: capitals, of which a served model knows some, and documents that tell all.

The model is a function of the request, behind the misbehaving server of `faulty_server` or any other.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from faulty_server import Action, Answer

import ken
from ken.core import Passage, Question

CAPITALS = {
    "Kenya": "Nairobi",
    "Norway": "Oslo",
    "Peru": "Lima",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Cuba": "Havana",
    "Nepal": "Kathmandu",
    "Ghana": "Accra",
}
KNOWN = ("Kenya", "Norway", "Peru", "Japan")

QUESTIONS = [
    Question(id=land.lower(), text=f"What is the capital of {land}?", answers=(city,))
    for land, city in CAPITALS.items()
]
DOCUMENTS = [
    Passage(id=land.lower(), title=land, text=f"The capital of {land} is {city}.") for land, city in CAPITALS.items()
]


def reply(messages: list[dict[str, str]]) -> str:
    """What the model writes: it is right about what it knows, sure of what it does not, and reads well."""
    instruction, *said = [message["content"] for message in messages]
    text = "\n".join(said)
    land = re.findall(r"capital of (\w+)\?", text)[-1]
    told = re.search(rf"The capital of {land} is (\w+)\.", text)
    if "<assessment>" in instruction:
        return f"I recall maps. <assessment>{'yes' if land in KNOWN else 'no'}</assessment>"
    if told:
        return f"<think> it is written there </think><answer> {told[1]} </answer>"
    if "search engine did not answer" in text:
        return "<answer> Atlantis </answer>"
    if "call a search engine" in instruction:
        return f"<search> capital of {land} </search>"
    return f"<think> hm </think><answer> {CAPITALS[land] if land in KNOWN else 'Atlantis'} </answer>"


def serve(number: int, payload: dict[str, Any]) -> Action:
    """The plan of a `FaultyServer` without a fault."""
    return Answer(reply(payload["messages"]))


def write_questions(path: Path, questions: list[Question] = QUESTIONS) -> Path:
    lines = [json.dumps({"id": q.id, "question": q.text, "golden_answers": list(q.answers)}) for q in questions]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def build_index(folder: Path) -> Path:
    ken.Index.build(DOCUMENTS, folder)
    return folder


def command(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).with_name("ken")), *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    """That of this process, without the keys and the width of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return {**kept, "COLUMNS": "80", "HF_HUB_OFFLINE": "1", **changes}


def run_ken(*arguments: object, cwd: Path, seconds: float = 120, **changes: str) -> subprocess.CompletedProcess[str]:
    """The real `ken` in a process of its own."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(**changes),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=seconds,
        check=False,
    )
