"""What a stage of a recipe does to the model, by the kind of learning; all of them can be interrupted and go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ken.core import Trajectory
from ken.models.local import LocalModel
from ken.sources import Sources
from ken.training.monitors import DEFAULTS, Monitor

if TYPE_CHECKING:
    from ken.training.introspection import Introspector
    from ken.training.introspection_folder import RoundReport
    from ken.training.introspection_rounds import RoundsConfig
    from ken.training.monitors import Alarm
    from ken.training.pretraining import Example
    from ken.training.rl_config import RLConfig
    from ken.training.rollouts import Reward, Task, Unit
    from ken.training.self_analysis import SelfAnalyser
    from ken.training.sft import SFTConfig
    from ken.training.task_pool import TaskPool


class Log(Protocol):
    """How a training went: the statistics of every step, what a person should know, and whether it was asked to stop
    early."""

    history: list[dict[str, float]]
    notes: list[str]
    interrupted: bool


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where a work is done. policy: trained in place. folder: of what the training leaves, `model` once it is done.
    on_step: told of the step that was done, of how many, and its statistics."""

    policy: LocalModel
    sources: Sources
    folder: Path
    on_step: Callable[[int, int, Mapping[str, float]], None] = lambda step, steps, statistics: None
    on_alarm: Callable[[Alarm], None] = lambda alarm: None


class Work(Protocol):
    """One training, from its last whole checkpoint if there is one. Raises as the trainer that does it."""

    def run(self, shop: Workshop) -> Log:
        """Train the policy of the workshop."""
        ...

    def told(self) -> str:
        """What a person should know once it is done, "" for nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Reinforcement:
    """Rollouts of tasks and what they earn. filter_by, monitors: as of `train`. check: called after every step, to stop
    a training whose tools are down. told: see `Work`."""

    tasks: Sequence[Task | Unit]
    reward: Reward
    config: RLConfig
    filter_by: Callable[[Trajectory], float] | None = None
    monitors: Sequence[Monitor] = DEFAULTS
    check: Callable[[], None] = lambda: None
    told: Callable[[], str] = str

    def run(self, shop: Workshop) -> Log:
        from ken.training.sharding import check_together
        from ken.training.train import train

        def on_step(step: int, statistics: Mapping[str, float]) -> None:
            check_together(self.check)
            shop.on_step(step, self.config.steps, statistics)

        return train(
            shop.policy,
            self.tasks,
            self.reward,
            self.config,
            sources=shop.sources,
            filter_by=self.filter_by,
            monitors=self.monitors,
            out=shop.folder,
            resume=True,
            on_step=on_step,
            on_alarm=shop.on_alarm,
        )


@dataclass(frozen=True, slots=True)
class Supervision:
    """Fine-tuning on what was sampled and kept."""

    examples: Sequence[Example]
    config: SFTConfig
    told: Callable[[], str] = str

    def run(self, shop: Workshop) -> Log:
        from ken.training.sft import sft

        def on_step(step: int, steps: int, loss: float) -> None:
            shop.on_step(step, steps, {"loss": loss})

        return sft(shop.policy, self.examples, self.config, out=shop.folder, resume=True, on_step=on_step)


@dataclass(frozen=True, slots=True)
class Introspecting:
    """Rounds in which the model makes up tasks, judges them, and is rewarded for agreeing with itself. config: of the
    training in one round. on_round: told of every round, from round 0, before any training."""

    pool: TaskPool
    reward: Reward
    config: RLConfig
    rounds: RoundsConfig
    introspector: Introspector
    analyser: SelfAnalyser
    on_round: Callable[[RoundReport], None] = lambda report: None
    told: Callable[[], str] = str

    def run(self, shop: Workshop) -> Log:
        from ken.training.introspection_rounds import train_on_introspection
        from ken.training.train import TrainingLog

        log = TrainingLog()
        steps = self.config.steps

        def on_step(number: int, step: int, statistics: Mapping[str, float]) -> None:
            place = (number - 1) * steps + step
            log.history.append({**statistics, "step": place})
            shop.on_step(place, self.rounds.rounds * steps, statistics)

        reports = train_on_introspection(
            shop.policy,
            self.pool,
            self.reward,
            self.config,
            config=self.rounds,
            introspector=self.introspector,
            analyser=self.analyser,
            out=shop.folder,
            on_round=self.on_round,
            on_step=on_step,
            on_alarm=shop.on_alarm,
        )
        log.interrupted = len(reports) <= self.rounds.rounds  # round 0 has a report too
        return log
