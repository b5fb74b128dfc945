"""Train a policy by reinforcement learning: start, watch, interrupt, resume, save."""

from __future__ import annotations

import gc
import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from ken.core import BadInput, KenError, SourceError, TrainingError, Trajectory
from ken.models.local import LAB_MANIFEST, LocalModel
from ken.sources import Sources
from ken.training.checkpoints import (
    CHECKPOINTS,
    STATE,
    add_statistics,
    cut_back,
    declare_whole,
    disk_full_explained,
    emergency,
    last_whole,
    step_of,
)
from ken.training.monitors import DEFAULTS, Alarm, Monitor, Watch
from ken.training.rl import NOTHING, RolloutTrainer
from ken.training.rl_config import RLConfig
from ken.training.rollouts import Reward, Shuffled, Task, Tasks, Unit
from ken.training.session import Interruption, quiet, restored, run_folder
from ken.training.sharding import NotFinite, anyone, check_gradients, whole_state
from ken.training.trl_arguments import trl_arguments


@dataclass(slots=True)
class TrainingLog:
    """How a training went. history: the statistics of every step, in order. notes: what its tasks say a person should
    know, such as levels of a curriculum that were reached, or never were. interrupted: it was asked to stop early."""

    history: list[dict[str, float]] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    def curve(self, name: str) -> list[float]:
        """One statistic of every step that has it."""
        return [statistics[name] for statistics in self.history if name in statistics]


def train(
    policy: LocalModel,
    tasks: Tasks | Sequence[Task | Unit],
    reward: Reward,
    config: RLConfig,
    *,
    sources: Sources | Callable[[Task], Sources] = NOTHING,
    filter_by: Callable[[Trajectory], float] | None = None,
    monitors: Sequence[Monitor] = DEFAULTS,
    out: Path | None = None,
    resume: bool = False,
    on_step: Callable[[int, Mapping[str, float]], None] = lambda step, statistics: None,
    on_alarm: Callable[[Alarm], None] = lambda alarm: None,
) -> TrainingLog:
    """Train `policy` in place by reinforcement learning.

    policy: a model of `hf/` or `lab/`, whose weights are changed.
    tasks: what is attempted. A sequence is shuffled, epoch after epoch; `Tasks` choose for themselves (a `Curriculum`).
    reward: from all groups of a step to a score for every rollout; see `ken.training.rewards.named`, `each`, `within`.
    sources: what strategies may consult, or a function of the task.
    filter_by: with `config.dynamic_sampling`, groups are dropped when all their rollouts have this measure alike, and
        not the reward.
    monitors: of collapse; each warns or stops.
    out: folder for `metrics.jsonl`, `checkpoints/` and, at the end, `model/`; None writes nothing. resume: go on from
    the last whole checkpoint in `out`, if there is one; the run then does what it would have done without the pause.
    on_step: called after every step with its number (from 1) and statistics. on_alarm: called when a monitor finds
        something.

    Ctrl-C ends the step under way, writes a checkpoint and returns with `interrupted`; a second one stops at once. What
    `tasks` warn of at the end, such as `StuckCurriculum`, is a warning and stands in the log's notes.

    Raises `TrainingError` when the loss is no longer a number, a monitor stops the run or the disk is full,
    `SourceError` when the search engine keeps failing; before each, a checkpoint of the last good step is written.
    `BadInput` for a policy with a decoder.
    """
    if policy.decoder is not None:
        raise BadInput(f"{policy.spec} writes by a decoder, not by the probabilities that are trained; load it without")
    if not isinstance(tasks, Tasks):
        tasks = Shuffled(tasks, seed=config.seed)
    with run_folder(out) as folder, quiet(), restored(policy):
        checkpoints = folder / CHECKPOINTS
        log = TrainingLog()
        arguments = trl_arguments(
            config, str(checkpoints), cpu=policy.model.device.type == "cpu", processes=_processes()
        )
        recorder = _Recorder(config, log, Watch(monitors), folder if out else None, on_step, on_alarm)
        trainer = RolloutTrainer(
            policy, tasks, reward, config, arguments, sources=sources, filter_by=filter_by, callbacks=[recorder]
        )
        recorder.trainer = trainer
        last = last_whole(checkpoints) if resume else None
        _begin(trainer, folder, last, log)
        gc.collect()
        gc.freeze()  # a full collection walks through torch and transformers, a quarter of a second every few steps
        try:
            with disk_full_explained(checkpoints), recorder.interruption.watched():
                trainer.train(resume_from_checkpoint=str(last) if last else None)
        except (SourceError, NotFinite, _Stopped) as error:
            where = "nothing was saved, since no --out was given"
            if out:
                done = partial(complete, trainer)
                where = emergency(trainer, checkpoints, step=trainer.rollout_step, complete=done)
            problem = f"{error}".rstrip(".")
            raise type_of(error)(f"{problem} ({where})") from error
        finally:
            policy.model.eval()
            policy.forget()
            gc.unfreeze()
        log.notes += tasks.notes()
        if not log.interrupted:
            log.notes += _finished(tasks, speak=trainer.accelerator.is_main_process)
        if out and not log.interrupted:
            weights = whole_state(trainer.model_wrapped, trainer.accelerator)
            if trainer.accelerator.is_main_process:
                with disk_full_explained(checkpoints):
                    save_policy(policy, folder / "model", weights)
            trainer.accelerator.wait_for_everyone()
    return log


def save_policy(policy: LocalModel, folder: Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write weights and tokenizer, usable as `hf/FOLDER`; what is there is replaced once the new one is whole.

    weights: instead of those of the policy, which holds only a part of them where processes share it.
    """
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        policy.model.save_pretrained(temporary, state_dict=weights)
        policy.tokenizer.save_pretrained(temporary)
        if (policy.path / LAB_MANIFEST).is_file():
            shutil.copy(policy.path / LAB_MANIFEST, temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Stopped(KenError):
    """A monitor said stop."""


def type_of(error: KenError) -> type[KenError]:
    """The error to raise for one that ended the training."""
    return SourceError if isinstance(error, SourceError) else TrainingError


class _Recorder(TrainerCallback):
    """Writes the metrics, watches for collapse, and completes checkpoints."""

    def __init__(  # noqa: PLR0917
        self,
        config: RLConfig,
        log: TrainingLog,
        watch: Watch,
        folder: Path | None,
        on_step: Callable[[int, Mapping[str, float]], None],
        on_alarm: Callable[[Alarm], None],
    ) -> None:
        self.config, self.log, self.watch, self.folder = config, log, watch, folder
        self.on_step, self.on_alarm = on_step, on_alarm
        self.trainer: RolloutTrainer
        self.interruption = Interruption()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer = self.trainer
        check_gradients(trainer.policy.model.parameters(), trainer.accelerator, step=trainer.rollout_step + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.config.updates == 0 and anyone(self.interruption.asked, self.trainer.accelerator):
            self.log.interrupted = True
            control.should_save = self.folder is not None
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "reward" not in logs:
            return
        step = self.trainer.rollout_step
        statistics = {name: float(v) for name, v in logs.items() if isinstance(v, int | float)}
        statistics["step"] = step
        self.log.history.append(statistics)
        if self.folder and state.is_world_process_zero:
            add_statistics(self.folder, statistics)
        self.on_step(step, statistics)
        for alarm in self.watch.see(step, statistics):
            self.log.alarms.append(alarm)
            self.on_alarm(alarm)
            if alarm.monitor.action == "stop":
                raise _Stopped(str(alarm))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            complete(self.trainer, Path(args.output_dir) / f"checkpoint-{state.global_step}")


def complete(trainer: RolloutTrainer, checkpoint: Path) -> None:
    """Add what TRL does not know of to a checkpoint, and with the last file declare it whole."""
    if trainer.critic is not None:
        trainer.critic.save(checkpoint / "critic.pt")
    declare_whole(checkpoint, {"tasks": trainer.tasks.state(), "failures": trainer.failures})


def _begin(trainer: RolloutTrainer, folder: Path, last: Path | None, log: TrainingLog) -> None:
    """Take up what a checkpoint holds beside the weights, and cut the metrics back to it."""
    if last is None:
        cut_back(folder, 0)
        return
    state = json.loads((last / STATE).read_bytes())
    trainer.tasks.restore(state["tasks"])
    if trainer.critic is not None:
        trainer.critic.load(last / "critic.pt")
    log.history += cut_back(folder, step_of(last) // trainer.config.updates)


def _finished(tasks: Tasks, *, speak: bool) -> list[str]:
    """Tell the tasks that training is done. What they warn of is returned and, if this process is to `speak` for all,
    warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tasks.finish()
    for warning in caught if speak else ():
        warnings.warn(warning.message, stacklevel=3)
    return [str(warning.message) for warning in caught]


def _processes() -> int:
    from accelerate import PartialState

    return int(PartialState().num_processes)
