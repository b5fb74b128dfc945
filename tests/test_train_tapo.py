"""`ken train tapo`: what stops a training with tools, and what is only told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="needs the extra `train`")

import ken
from ken.core import Passage, Question, SourceError
from ken.papers.train import Listener, read_run, resume, train_on
from ken.sources.search.retriever import IndexRetriever
from ken.sources.tools.python import PythonTool
from ken.sources.tools.tool import ToolResult
from ken.training.checkpoints import STATE
from ken.training.monitors import STARVED, Alarm
from tests.bandits import tool_caller

QUESTIONS = [Question(id=str(n), text=f"What is {n}?", answers=("7",), meta={"source": "gsm8k"}) for n in range(8)]
SMALL: dict[str, Any] = {
    "steps": 2,
    "questions_per_step": 4,
    "group_size": 4,
    "minibatches": 1,
    "max_tokens": 3,
    "max_refills": 0,
    "length": 64,
    "buffer": 32,
    "lr": 1e-3,
    "batch_size": 64,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that calls both tools at random, and an index."""
    folder = tmp_path_factory.mktemp("tools")
    tool_caller(folder / "model")
    ken.Index.build([Passage(id="d", text="x marks the spot")], folder / "index")
    return folder


def train(place: Path, out: Path, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "model": f"hf/{place / 'model'}",
        "questions": QUESTIONS,
        "index": place / "index",
        "device": "cpu",
        **SMALL,
        **changes,
    }
    return train_on("tapo", out=out, **arguments)


def test_an_interpreter_that_is_down_stops_the_training_with_a_checkpoint_and_it_goes_on_once_it_is_up(
    place: Path, tmp_path: Path
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise OSError(11, "Resource temporarily unavailable")

    said = r"the tool 'code' was down in \d+ of \d+ calls; repair it, then resume \(step 1 is saved in"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PythonTool, "_process", away)
        with pytest.raises(SourceError, match=said):
            train(place, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-1" / STATE).is_file()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PythonTool, "run", lambda self, code: ToolResult("1"))
        trained = resume(tmp_path / "run", device="cpu")
    assert trained.model == tmp_path / "run" / "model"


def test_groups_that_are_never_mixed_raise_an_alarm(place: Path, tmp_path: Path) -> None:
    alarms: list[Alarm] = []
    never = [question.model_copy(update={"answers": ("9",)}) for question in QUESTIONS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PythonTool, "run", lambda self, code: ToolResult("1"))
        trained = train(
            place, tmp_path / "run", questions=never, steps=10, listener=Listener(on_alarm=alarms.append)
        )  # fmt: skip
    (log,) = trained.logs.values()
    assert [statistics["filled_up"] for statistics in log.history] == [1.0] * 10
    (starved,) = [alarm for alarm in alarms if alarm.monitor == STARVED]
    assert starved.step == 10


def test_without_search_no_index_is_needed_and_the_command_has_every_option(place: Path, tmp_path: Path) -> None:
    lines = [{"question": q.text, "golds": q.answers, "source": "gsm8k"} for q in QUESTIONS]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    given = {**SMALL, "steps": 1, "clip_low": 0.1, "clip_high": 0.3, "dual_clip": 3.0, "weight_decay": 0.0}
    command = ["train", "tapo", "--model", f"hf/{place / 'model'}", "--questions", "q.jsonl", "--out", "run"]
    command += ["--no-search", "--no-code", "--device", "cpu"]
    command += [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "ken", *command],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    settings = read_run(tmp_path / "run")
    assert settings.index == ""
    assert settings.options.items() >= {**given, "search": False, "code": False}.items()
    assert "Try: ken audit --model hf/run/model --strategies direct --questions FILE" in done.stdout


def test_what_was_trained_is_audited_with_its_tools(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ken.cli.train_progress import finish
    from ken.papers.recipes import recipe_of
    from ken.papers.train import Trained, TrainingRun

    options = recipe_of("tapo").chosen({}).model_dump()
    settings = TrainingRun(paper="tapo", model="hf/x", index="docs", options=options)
    finish(Trained(place, settings, model=place / "model"))
    said = " ".join(capsys.readouterr().out.split())
    assert f"ken audit --model hf/{place / 'model'} --index docs --top-k 1 --strategies tools --questions" in said


@pytest.mark.parametrize(("cache", "asked_again"), [(1.0, False), (0.0, True)])
def test_searches_are_answered_from_memory_where_a_cache_is_wanted(
    place: Path, tmp_path: Path, cache: float, asked_again: bool
) -> None:
    asked: list[str] = []
    search = IndexRetriever.search

    async def counted(self: IndexRetriever, query: str, k: int) -> list[Passage]:
        asked.append(" ".join(query.lower().split()))
        return await search(self, query, k)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IndexRetriever, "search", counted)
        train(place, tmp_path / "run", code=False, steps=1, search_cache=cache)
    assert asked
    assert (len(asked) > len({*asked})) == asked_again


def test_a_ratio_that_is_none_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ken.core.BadInput, match="search_cache cannot be 1"):
        train(place, tmp_path / "run", search_cache=1.5)
    assert not (tmp_path / "run").exists()


def test_what_is_to_be_known_of_a_stage_is_said_at_the_end(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ken.cli.train_progress import finish
    from ken.papers.recipes import recipe_of
    from ken.papers.train import Trained, TrainingRun
    from ken.training.train import TrainingLog

    settings = TrainingRun(paper="tapo", model="hf/x", index="", options=recipe_of("tapo").chosen({}).model_dump())
    log = TrainingLog(history=[{"step": 1, "reward": 0.5}], notes=["level \x1b[2J'hard' [bold] was never reached"])
    finish(Trained(place, settings, model=place / "model", logs={"tools": log}))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("tools: 1 steps, reward 0.50 → 0.50")
    assert said[1] == "tools: level 'hard' [bold] was never reached"
