"""What the README shows is run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the README's library block asks the lab model")
README = Path(__file__).parents[1] / "README.md"


def test_the_library_block_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    documents = tmp_path / "my-documents"
    documents.mkdir()
    (documents / "company.md").write_text(
        "# The company\n\nThe company was founded by Ada Morel in 1911.\n", encoding="utf-8"
    )
    (documents / "weather.txt").write_text("It rains in November.", encoding="utf-8")
    questions = '{"id": "1", "question": "Who founded the company?", "golden_answers": ["Ada Morel"]}\n'
    (tmp_path / "questions.jsonl").write_text(questions, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    names: dict[str, object] = {}
    exec(block, names)  # noqa: S102 (the block is this repository's own)

    assert names["passages"][0].source.endswith("company.md")  # type: ignore[index]
    assert (tmp_path / "my-audit" / "audit.html").is_file()
    assert "Decision" in capsys.readouterr().out or names["trajectory"].decision  # type: ignore[attr-defined]
