"""A curriculum in a training: the log says where it is, it learns from what is dropped too, and it resumes."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ken.agents import Strategy
from ken.agents.attempt import Attempt
from ken.core import Passage, Question
from ken.models.local import LocalModel
from ken.sources import Sources
from ken.training.checkpoints import METRICS, STATE
from ken.training.curricula import Curriculum, GapScheduler, StuckCurriculum, UniformSampler
from ken.training.rl_config import RLConfig
from ken.training.rollouts import Task, each
from ken.training.train import TrainingLog, train
from tests.bandits import Choose, bandit_model, right_word, settings
from tests.test_train import numbers

QUESTIONS = [
    Question(id=f"q{i}", text=text, answers=(word,))
    for i, (text, word) in enumerate([("one", "red"), ("two", "blue")] * 4)
]
GOLDS = {q.id: (Passage(id=f"gold of {q.id}", text=f"gold {q.answers[0]}"),) for q in QUESTIONS}


class Engine:
    """Finds passages about something else, as many as are asked for."""

    name = "engine"

    async def search(self, query: str, k: int) -> list[Passage]:
        return [Passage(id=f"other{i}", text=f"other {i}") for i in range(k)]

    async def close(self) -> None:
        """Nothing to close."""


class Lookup(Strategy):
    """Searches, then chooses without having read it: what is found changes no answer of the bandit."""

    name = "lookup"
    needs_search = True

    async def solve(self, attempt: Attempt) -> None:
        await attempt.search("what")
        await Choose().solve(attempt)


def curriculum(threshold: float = 0.4, **options: Any) -> Curriculum:
    """Two levels above the first, on a window of two steps of four units."""
    scheduler = GapScheduler(window=8, threshold=threshold, levels=2)
    units = [Task(question, Lookup()) for question in QUESTIONS]
    return Curriculum(units, **{"golds": GOLDS, "scheduler": scheduler, **options})


def run(folder: Path, stream: Curriculum, *, stop_at: int | None = None, **changes: Any) -> TrainingLog:
    """A training in `folder`, gone on with where it was stopped: by Ctrl-C while step `stop_at` is reported."""

    def on_step(step: int, _: Mapping[str, float]) -> None:
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    weights = folder / "model"
    return train(
        LocalModel(weights, device="cpu", control_tokens=True) if weights.exists() else bandit_model(weights),
        stream,
        each(right_word),
        RLConfig(**settings(**{"steps": 12, **changes})),
        sources=Sources(search=Engine()),
        monitors=(),
        out=folder / "run",
        resume=True,
        on_step=on_step,
    )


def test_levels_and_accuracies_of_a_training_stand_in_its_metrics_and_rises_in_its_notes(tmp_path: Path) -> None:
    stream = curriculum()
    with warnings.catch_warnings():
        warnings.simplefilter("error", StuckCurriculum)
        log = run(tmp_path, stream, steps=30, units=4)
    assert stream.scheduler is not None
    entries = [json.loads(line) for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    levels = [entry["tasks/gap_level"] for entry in entries]
    assert set(levels) == {0, 1, 2}
    assert levels == sorted(levels)
    assert log.curve("tasks/gap_level") == levels
    assert [entry["tasks/next_level"] for entry in entries] == [*levels[1:], 2]
    found = {(e["tasks/gap_level"], e["tasks/gap_passages"], e["tasks/gap_gold"]) for e in entries}
    assert found == {(0, 1, 1), (1, 1, 1), (2, 1, 0)}
    for entry in entries:
        assert entry["tasks/accuracy"] == pytest.approx(entry["reward"]), "every unit has as many rollouts"
    last = levels.index(1) - 1  # of level 0
    course = log.curve("tasks/accuracy")
    assert entries[last]["tasks/level_accuracy"] == pytest.approx(sum(course[: last + 1]) / (last + 1))
    assert "tasks/window_accuracy" not in entries[last], "a rise empties the window"
    assert entries[-1]["tasks/window_accuracy"] == pytest.approx(sum(course[-2:]) / 2)
    steps = [levels.index(1), levels.index(2)]  # counted from 1, the last of the level below
    assert [change.step + 1 for change in stream.scheduler.changes] == steps
    assert [note.partition(",")[0] for note in log.notes] == [
        f"step {step}: gap level {level} of 2 from now on" for level, step in enumerate(steps, start=1)
    ]


def test_a_level_that_is_never_left_is_warned_of_when_the_training_ends(tmp_path: Path) -> None:
    with pytest.warns(StuckCurriculum, match="training ends at gap level 0 of 2"):
        log = run(tmp_path, curriculum(threshold=0.999), steps=3, units=4, lr=1e-6)
    assert len(log.notes) == 1
    assert "real retrieval was never trained; train longer" in log.notes[0]


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_curriculum_goes_on_where_the_training_was_interrupted(tmp_path: Path, dynamic: bool) -> None:
    changes = {"units": 4, "dynamic_sampling": dynamic, "max_refills": 1}
    whole, first, second = curriculum(), curriculum(), curriculum()
    log = run(tmp_path / "whole", whole, **changes)
    with warnings.catch_warnings():
        warnings.simplefilter("error", StuckCurriculum)  # an interruption is no end
        stopped = run(tmp_path / "stopped", first, stop_at=6, **changes)
    assert stopped.interrupted
    assert len(stopped.history) == 7
    resumed = run(tmp_path / "stopped", second, **changes)
    assert second.state() == whole.state()
    assert resumed.notes == log.notes
    assert log.notes
    for one, other in zip(numbers(tmp_path / "whole" / "run"), numbers(tmp_path / "stopped" / "run"), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4, nan_ok=True)
        assert {n: v for n, v in one.items() if n.startswith("tasks/")} == {
            n: v for n, v in other.items() if n.startswith("tasks/")
        }


def test_what_dynamic_sampling_drops_was_observed_before(tmp_path: Path) -> None:
    """All rollouts of a question score alike, so that every group is dropped and made up for by others."""
    stream = curriculum(scheduler=None, golds=None, sampler=UniformSampler())

    def reward(trajectory: Any) -> float:
        return float(int(trajectory.question.id[1:]) % 2)

    log = train(
        bandit_model(tmp_path / "model"),
        stream,
        each(reward),
        RLConfig(**settings(steps=1, units=2, group_size=4, dynamic_sampling=True, max_refills=3)),
        sources=Sources(search=Engine()),
        monitors=(),
    )
    assert log.curve("refills") == [3]
    assert log.curve("zero_variance") == [1]
    assert stream.observed.all(), "two units and three refills of two are all eight"
    assert stream.estimates.tolist() == [0, 1] * 4
    assert log.curve("tasks/observed_share") == [1]
    assert log.curve("tasks/accuracy") == [0.5]


def test_the_state_of_a_checkpoint_is_that_of_the_curriculum(tmp_path: Path) -> None:
    stream = curriculum()
    run(tmp_path, stream, stop_at=4, units=4)
    saved = json.loads((tmp_path / "run" / "checkpoints" / "checkpoint-5" / STATE).read_bytes())
    assert saved["tasks"] == json.loads(json.dumps(stream.state()))
