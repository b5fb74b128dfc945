"""A training can be interrupted, killed and resumed; it stops for a reason that it says, and keeps what was learnt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ken.core import BadInput, Observation, Passage, SourceError, ToolCall, TrainingError
from ken.models.loading import load_model
from ken.models.local import LAB_MANIFEST, LocalModel
from ken.sources import Sources
from ken.training import train as training
from ken.training.checkpoints import METRICS, STATE
from ken.training.critic import Critic
from ken.training.monitors import DEFAULTS, STARVED, Monitor, Watch
from ken.training.rl_config import RLConfig
from ken.training.rollouts import Task, each
from ken.training.train import train
from tests.bandits import QUESTIONS, Choose, bandit_model, right_word, settings

TASKS = [Task(question, Choose()) for question in QUESTIONS]

RUN = """
import sys
from pathlib import Path
from ken.models.local import LocalModel
from ken.training.rl_config import RLConfig
from ken.training.rollouts import each
from ken.training.train import train
from tests.bandits import right_word, settings
from tests.test_train import TASKS
folder, changes, resume = Path(sys.argv[1]), eval(sys.argv[2]), sys.argv[3] == "resume"
def on_step(step, statistics):
    print("step", step, flush=True)
    if step == 7 and not resume:
        sys.stdin.readline()
train(LocalModel(folder / "model", device="cpu", control_tokens=True), TASKS, each(right_word),
      RLConfig(**settings(**changes)), out=folder / "run", resume=resume, on_step=on_step, monitors=())
"""


def numbers(run: Path) -> list[dict[str, float]]:
    """The metrics of a run, without times."""
    timed = ("second", "step_time", "epoch", "train_runtime")
    entries = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    return [{k: v for k, v in entry.items() if not k.startswith(timed)} for entry in entries]


GROUP = {"steps": 12, "save_every": 5, "schedule": "linear"}
GAE = {"steps": 12, "save_every": 5, "advantage": "gae", "epochs": 2}


@pytest.mark.parametrize(
    ("how", "changes"),
    [
        pytest.param(signal.SIGKILL, GROUP, id="group-9"),
        pytest.param(signal.SIGINT, GAE, id="gae-2"),
        pytest.param(signal.SIGINT, GROUP, id="group-2", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, GAE, id="gae-9", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    tmp_path: Path, how: int, changes: dict[str, Any]
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        bandit_model(folder / "model")
    config = RLConfig(**settings(**changes))
    train(LocalModel(whole / "model", device="cpu", control_tokens=True), TASKS, each(right_word), config,
          out=whole / "run", monitors=())  # fmt: skip

    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}"}
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(stopped), repr(changes)]
    with subprocess.Popen(
        [*command, "new"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        while process.stdout.readline() != "step 7\n":
            assert process.poll() is None
        process.send_signal(how)
        if how == signal.SIGINT:
            process.stdin.write("\n")
            process.stdin.flush()
        process.wait(timeout=60)
    kept = {int(path.name.rpartition("-")[2]) for path in (stopped / "run" / "checkpoints").glob("checkpoint-*")}
    # Ctrl-C comes while step 7 is reported: the step after it is finished and kept.
    assert kept == {step * config.updates for step in ((5,) if how == signal.SIGKILL else (5, 8))}
    assert not (stopped / "run" / "model").exists()

    subprocess.run([*command, "resume"], check=True, env=environment, capture_output=True)
    assert [entry["step"] for entry in numbers(stopped / "run")] == list(range(1, 13))
    for one, other in zip(numbers(whole / "run"), numbers(stopped / "run"), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4, nan_ok=True)
    trained = [LocalModel(folder / "run" / "model", device="cpu").model for folder in (whole, stopped)]
    for mine, other in zip(*(model.parameters() for model in trained), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)


def test_the_same_settings_give_the_same_run(tmp_path: Path) -> None:
    logs = []
    for name in ("a", "b"):
        model = bandit_model(tmp_path / name)
        train(model, TASKS, each(right_word), RLConfig(**settings(steps=4)), out=tmp_path / f"{name}-run", monitors=())
        logs.append(numbers(tmp_path / f"{name}-run"))
    assert logs[0] == logs[1]


def test_the_model_can_be_loaded_trained_again_and_asked(tmp_path: Path) -> None:
    model = bandit_model(tmp_path / "model")
    (tmp_path / "model" / LAB_MANIFEST).write_text("{}")
    train(model, TASKS, each(right_word), RLConfig(**settings(steps=2)), out=tmp_path / "run")
    again = load_model(f"hf/{tmp_path / 'run' / 'model'}")
    assert isinstance(again, LocalModel)
    assert again.control_tokens, "a model of the lab is still one after training"
    train(again, TASKS, each(right_word), RLConfig(**settings(steps=2, kl=0.1)), out=tmp_path / "run2")
    train(again, TASKS, each(right_word), RLConfig(**settings(steps=2, kl=0.1)))
    assert (tmp_path / "run2" / "model" / "config.json").is_file()


class Down:
    """A search engine that does not answer."""

    spec = "down"

    async def search(self, query: str, k: int) -> list[Passage]:
        raise SourceError("the retriever at nowhere does not answer")

    async def close(self) -> None:
        """Nothing to close."""


class Lookup(Choose):
    """Searches before it chooses."""

    name = "lookup"

    async def solve(self, attempt: Any) -> None:
        await attempt.search("what")
        await super().solve(attempt)


def test_a_search_engine_that_keeps_failing_ends_the_training_with_a_checkpoint(tmp_path: Path) -> None:
    model = bandit_model(tmp_path / "model")
    config = RLConfig(**settings(steps=9, units=2, group_size=4, max_failures=20))
    tasks = [Task(question, Lookup()) for question in QUESTIONS]
    with pytest.raises(SourceError, match=r"20 searches in a row failed.*nowhere.*resume") as caught:
        train(model, tasks, each(right_word), config, sources=Sources(search=Down()), out=tmp_path / "run")
    assert "step 2 is saved" in str(caught.value)
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-2" / STATE).is_file()


class Computes(Lookup):
    """Also calls another tool, which works or not."""

    name = "computes"

    def __init__(self, *, works: bool, searches: bool) -> None:
        super().__init__()
        self.works, self.searches = works, searches

    async def solve(self, attempt: Any) -> None:
        attempt.steps += [ToolCall(name="code"), Observation(note="1", error=not self.works)]
        await (super().solve(attempt) if self.searches else Choose.solve(self, attempt))


def test_only_searches_are_counted_as_failed_searches(tmp_path: Path) -> None:
    config = RLConfig(**settings(steps=2, units=2, group_size=4, max_failures=8))
    broken = [Task(question, Computes(works=False, searches=False)) for question in QUESTIONS]
    log = train(bandit_model(tmp_path / "model"), broken, each(right_word), config, sources=Sources(search=Down()))
    assert not log.curve("search_failures"), "no search, none that failed"

    tasks = [Task(question, Computes(works=True, searches=True)) for question in QUESTIONS]
    with pytest.raises(SourceError, match="8 searches in a row failed"):
        train(bandit_model(tmp_path / "other"), tasks, each(right_word), config, sources=Sources(search=Down()))
    tasks = [Task(question, Computes(works=False, searches=True)) for question in QUESTIONS]
    more = RLConfig(**settings(steps=1, units=2, group_size=4, max_failures=9))
    log = train(bandit_model(tmp_path / "third"), tasks, each(right_word), more, sources=Sources(search=Down()))
    assert log.curve("search_failures") == [1.0], "a share of the searches"


def test_a_loss_that_is_no_number_ends_the_training_before_it_is_taken(tmp_path: Path) -> None:
    model = bandit_model(tmp_path / "model")

    def poison(step: int, _: Any) -> None:
        if step == 3:
            next(model.model.parameters()).register_hook(lambda gradient: gradient * float("nan"))

    with pytest.raises(TrainingError, match=r"no longer a number at step 4.*step 3 is saved"):
        train(model, TASKS, each(right_word), RLConfig(**settings(steps=9)), out=tmp_path / "run", on_step=poison)
    saved = LocalModel(tmp_path / "run" / "checkpoints" / "checkpoint-3", device="cpu")
    assert all(parameter.isfinite().all() for parameter in saved.model.parameters())


def test_a_critic_that_is_no_number_ends_the_training_before_the_policy_learns_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bandit_model(tmp_path / "model")
    real, calls = Critic.values, []

    def values(self: Critic, batch: Any) -> Any:
        calls.append(1)
        return real(self, batch) * (float("nan") if len(calls) == 3 else 1.0)

    monkeypatch.setattr(Critic, "values", values)
    config = RLConfig(**settings(steps=9, advantage="gae"))
    with pytest.raises(TrainingError, match=r"critic's values are no longer numbers at step 3.*step 2 is saved"):
        train(model, TASKS, each(right_word), config, out=tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-2" / "critic.pt").is_file()


def test_a_disk_that_is_full_when_the_model_is_saved_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training, "save_policy", full)
    model = bandit_model(tmp_path / "model")
    with pytest.raises(TrainingError, match="the disk is full; the checkpoint checkpoint-4 is whole; free space"):
        train(model, TASKS, each(right_word), RLConfig(**settings(steps=4, save_every=2)), out=tmp_path / "run")


def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bandit_model(tmp_path / "model")
    real = type(model.model).save_pretrained

    def save(self: Any, folder: Any, *arguments: Any, **options: Any) -> None:
        real(self, folder, *arguments, **options)
        if "checkpoint-4" in str(folder):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model.model), "save_pretrained", save)
    with pytest.raises(TrainingError, match="the disk is full; the checkpoint checkpoint-2 is whole; free space"):
        train(model, TASKS, each(right_word), RLConfig(**settings(steps=9, save_every=2)), out=tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_model_is_replaced_only_by_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bandit_model(tmp_path / "model")
    training.save_policy(model, tmp_path / "out")
    before = sorted(path.name for path in (tmp_path / "out").iterdir())

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model.tokenizer), "save_pretrained", fails)
    with pytest.raises(OSError, match="No space"):
        training.save_policy(model, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out"}


def test_an_out_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(BadInput, match="is a file"):
        train(bandit_model(tmp_path / "m"), TASKS, each(right_word), RLConfig(**settings()), out=tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


# --- collapse
# -------------------------------------------------------------------------------------------------------------------


def collapsing(tmp_path: Path, monitor: str, patience: int = 3, **run: Any) -> list[str]:
    """The alarms of a run made to collapse, with the default threshold of one monitor and a short patience."""
    chosen = next(m for m in (*DEFAULTS, STARVED) if m.statistic == monitor)
    quick = Monitor(chosen.statistic, chosen.problem, chosen.low, chosen.high, patience)
    reward = run.pop("reward", right_word)
    tasks = run.pop("tasks", TASKS)
    model = bandit_model(tmp_path / "model")
    log = train(model, tasks, each(reward), RLConfig(**settings(**run)), monitors=[quick])
    return [str(alarm) for alarm in log.alarms]


class Judge(Choose):
    """Says red for "I know" and anything else for "I do not"."""

    name = "judge"

    async def solve(self, attempt: Any) -> None:
        from ken.core import Decision

        await super().solve(attempt)
        attempt.steps.append(Decision(knows=attempt.steps[-1].text == "red", rationale=""))


class Broken(Choose):
    """Never keeps to the format."""

    name = "broken"

    async def solve(self, attempt: Any) -> None:
        from ken.core import Malformed

        await super().solve(attempt)
        attempt.steps.append(Malformed(text="", problem="always"))


def test_a_policy_that_becomes_deterministic_is_noticed(tmp_path: Path) -> None:
    alarms = collapsing(tmp_path, "entropy", steps=80, lr=2e-2)
    assert alarms
    assert "has become deterministic" in alarms[0]


def test_a_policy_that_runs_away_is_noticed(tmp_path: Path) -> None:
    alarms = collapsing(tmp_path, "kl", steps=40, lr=2e-2, kl=1e-9, reward=lambda t: float(t.answer == "loud"))
    assert alarms
    assert "run away" in alarms[0]


def test_rewards_that_are_all_alike_are_noticed(tmp_path: Path) -> None:
    alarms = collapsing(tmp_path, "reward_std", steps=5, reward=lambda t: 1.0)
    assert len(alarms) == 1
    assert "earn the same" in alarms[0]


def test_groups_that_are_all_alike_are_noticed(tmp_path: Path) -> None:
    alarms = collapsing(tmp_path, "zero_variance", steps=5, reward=lambda t: float(t.question.id == "one"))
    assert alarms
    assert "groups score alike" in alarms[0]


def test_one_decision_for_everything_is_noticed(tmp_path: Path) -> None:
    alarms = collapsing(
        tmp_path,
        "one_decision",
        steps=60,
        lr=2e-2,
        tasks=[Task(question, Judge()) for question in QUESTIONS],
        reward=lambda t: float(t.answer == "red"),
    )
    assert alarms
    assert "all decisions are the same" in alarms[0]


def test_a_broken_format_is_noticed(tmp_path: Path) -> None:
    alarms = collapsing(tmp_path, "format", steps=5, tasks=[Task(question, Broken()) for question in QUESTIONS])
    assert alarms
    assert "break the format" in alarms[0]


def test_rollouts_that_are_all_cut_are_noticed(tmp_path: Path) -> None:
    alarms = collapsing(tmp_path, "truncated", steps=5)
    assert alarms
    assert "cut at max_tokens" in alarms[0]


def test_a_filter_that_never_fills_the_batch_is_noticed(tmp_path: Path) -> None:
    alarms = collapsing(
        tmp_path, "filled_up", steps=5, dynamic_sampling=True, reward=lambda t: float(t.question.id == "one")
    )
    assert len(alarms) == 1
    assert "step 3: filled_up = 1, above 0.5 for 3 steps: hardly any group has both right and wrong" in alarms[0]


def test_every_default_monitor_is_tested_here() -> None:
    tested = {"entropy", "kl", "reward_std", "zero_variance", "one_decision", "format", "truncated"}
    assert {monitor.statistic for monitor in DEFAULTS} == tested


def test_a_monitor_can_stop_the_training(tmp_path: Path) -> None:
    stop = Monitor("reward_std", "all alike", low=1e-6, patience=2, action="stop")
    with pytest.raises(TrainingError, match=r"step 2: reward_std = 0, below 1e-06 for 2 steps: all alike \(step 2 is"):
        train(
            bandit_model(tmp_path / "m"), TASKS, each(lambda t: 1.0), RLConfig(**settings(steps=9)), monitors=[stop],
            out=tmp_path / "run",
        )  # fmt: skip


def test_an_alarm_is_given_once_and_again_after_a_recovery() -> None:
    watch = Watch([Monitor("x", "too low", low=1.0, patience=2)])
    fired = [bool(watch.see(step, {"x": value})) for step, value in enumerate([0, 0, 0, 0, 2, 0, 0, float("nan")])]
    assert fired == [False, True, False, False, False, False, True, False]
    assert watch.see(9, {"y": 0.0}) == []
