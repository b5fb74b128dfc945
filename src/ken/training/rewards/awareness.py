"""Does the model know what it knows? Rewards for deciding in line with a label of what it can answer alone.

Labels are True for "can answer without search". They come from a mapping by question id, or from
`question.meta["knows"]`. Source: AdaSearch (arXiv 2512.16883; card 01).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ken.core import BadInput, Decision, Question, Trajectory
from ken.metrics import oracle_ksample
from ken.training.labels.degenerate import EqualLabels
from ken.training.rewards.completion import golds
from ken.training.rewards.outcome import exact
from ken.training.rollouts import Group

LABEL = "knows"  # the key of `question.meta`


def label_of(question: Question, labels: Mapping[str, bool] | None = None) -> bool:
    """Whether the model can answer `question` alone. Raises `BadInput` when it has no label."""
    label = question.meta.get(LABEL) if labels is None else labels.get(question.id)
    if not isinstance(label, bool):
        raise BadInput(
            f"question {question.id!r} has no label whether the model knows it; measure its solve rate first, or put "
            f"true or false under {LABEL!r} in its metadata"
        )
    return label


def verdict(trajectory: Trajectory) -> bool | None:
    """The one explicit decision of an attempt; None when it is missing, doubled or cannot be read."""
    decisions = [step for step in trajectory.steps if isinstance(step, Decision)]
    return decisions[0].knows if len(decisions) == 1 else None


def verdict_matches(trajectory: Trajectory, label: bool) -> float:
    """1 if the verdict equals the label, else 0; one that is missing, doubled or malformed never does (card 01)."""
    return float(trajectory.error is None and verdict(trajectory) is label)


def decided(trajectory: Trajectory, *, labels: Mapping[str, bool] | None = None) -> float:
    """`verdict_matches` with the question's label. Raises `BadInput` when it has none."""
    return verdict_matches(trajectory, label_of(trajectory.question, labels))


def aware(trajectory: Trajectory, *, bonus: float = 0.2, labels: Mapping[str, bool] | None = None) -> float:
    """EM + bonus · [(no search) = label]: the self-awareness bonus, a baseline of AdaSearch (card 01, Baselines).

    0 after an error. Raises `BadInput` when the question has no label or no golds.
    """
    label, right = label_of(trajectory.question, labels), exact(trajectory)
    return right + bonus * ((not trajectory.searches) is label) if trajectory.error is None else 0.0


@dataclass(frozen=True, slots=True)
class OwnSolveRate:
    """The reward of AdaSearch-E2E: verdicts are judged by how the same step's closed-book rollouts did (card 01).

    A group of kind `decide` is labelled by the closed-book groups (kind `inside`) of its question: "knows" iff their
    mean SubEM is at least `threshold`. Rollouts that ended in an error say nothing and are left out; when none is left,
    nobody is rewarded. All other groups earn `answer`. watch: sees the labels of every call, and warns when they stay
    all equal.

    Raises `BadInput` for a threshold outside [0, 1], and when called without a closed-book group of a question.
    """

    threshold: float = 0.5
    inside: str = "inside"
    decide: str = "decide"
    answer: Callable[[Trajectory], float] = exact
    watch: EqualLabels = field(default_factory=EqualLabels, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise BadInput(f"the threshold of the solve rate is {self.threshold}; it must lie in [0, 1]")

    def labels(self, groups: Sequence[Group]) -> dict[str, bool | None]:
        """The label of every question that has closed-book rollouts, by id; None when all of them failed."""
        attempts: dict[str, list[Trajectory]] = {}
        for group in groups:
            if group.task.kind == self.inside:
                attempts.setdefault(group.task.question.id, []).extend(group.trajectories)
        return {question: self._label(tried) for question, tried in attempts.items()}

    def _label(self, attempts: Sequence[Trajectory]) -> bool | None:
        answers = [t.answer for t in attempts if t.error is None]
        return oracle_ksample(answers, golds(attempts[0]), self.threshold) if answers else None

    def __call__(self, groups: Sequence[Group]) -> list[list[float]]:
        labels = self.labels(groups)
        self.watch.see(labels.values(), self.threshold)
        scores = []
        for group in groups:
            if group.task.kind != self.decide:
                scores.append([self.answer(trajectory) for trajectory in group.trajectories])
                continue
            question = group.task.question.id
            if question not in labels:
                raise BadInput(
                    f"question {question!r} is to be decided without a group of kind {self.inside!r} to label it; draw "
                    "both in one unit"
                )
            label = labels[question]
            scores.append([0.0 if label is None else verdict_matches(t, label) for t in group.trajectories])
        return scores
