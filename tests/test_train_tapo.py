"""`ken train tapo`: what stops a training with tools, and what is only told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="needs the extra `train`")

import ken
from ken.core import Passage, Question, SourceError
from ken.papers.train import Listener, resume, train_on
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
