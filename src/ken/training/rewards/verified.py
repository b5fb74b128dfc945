"""A verifier as reward: 1 for a response that it calls correct, else 0 (card 28, RLVR use); with an audit of how often
it is wrong where gold labels are known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ken.agents.background import run
from ken.agents.verifiers import Verification, Verifier
from ken.core import ModelError, Trajectory
from ken.training.rewards.completion import golds, written
from ken.training.rollouts import Group, Reward

Key = tuple[str, str, str]  # question, reference, response


@dataclass(slots=True)
class VerifierAudit:
    """How often a verifier was wrong, where that is known: false positives reward what is wrong, and are what a policy
    learns to make (reward hacking)."""

    true_positives: int = 0
    false_positives: int = 0
    true_negatives: int = 0
    false_negatives: int = 0

    def add(self, said: bool, gold: bool) -> None:
        """Count a judgement."""
        name = f"{'true' if said == gold else 'false'}_{'positives' if said else 'negatives'}"
        setattr(self, name, getattr(self, name) + 1)

    @property
    def false_positive_rate(self) -> float:
        """Share of the wrong responses that were called correct; nan when there were none."""
        wrong = self.false_positives + self.true_negatives
        return self.false_positives / wrong if wrong else float("nan")

    @property
    def false_negative_rate(self) -> float:
        """Share of the right responses that were called incorrect; nan when there were none."""
        right = self.true_positives + self.false_negatives
        return self.false_negatives / right if right else float("nan")


@dataclass
class VerifiedReward:
    """Rewards by a verifier, many at once, each judgement paid for once.

    gold: whether a response is right, where that is known; then `audit` counts, and `steps` keeps each step's own
    counts. together: judgements that are awaited at once. Usable as a `Reward` of rollouts (`groups`), and as one of
    TRL's reward functions (`completions`).
    """

    verifier: Verifier
    gold: Callable[[str, str, str], bool] | None = None
    together: int = 64
    audit: VerifierAudit = field(default_factory=VerifierAudit)
    steps: list[VerifierAudit] = field(default_factory=list)
    calls: int = 0
    known: dict[Key, Verification] = field(default_factory=dict)

    def groups(self, groups: Sequence[Group]) -> list[list[float]]:
        """A score for each rollout: its question, the first gold as the reference, and what the policy wrote. An
        attempt that failed earns nothing. Raises `BadInput` without golds, `ModelError` when the verifier's model does
        not answer."""
        asked = [[self._key(trajectory) for trajectory in group.trajectories] for group in groups]
        said = self._judged([key for keys in asked for key in keys if key is not None])
        self._count([key for keys in asked for key in keys if key is not None], said)
        return [[0.0 if key is None else float(said[key].right) for key in keys] for keys in asked]

    def completions(
        self, prompts: Sequence[Any], completions: Sequence[Any], *, answer: Sequence[str], **columns: Any
    ) -> list[float]:
        """TRL's form: prompts and completions as texts or as messages, and the column `answer` of references."""
        keys = [
            (_said(prompt), str(reference), _said(completion))
            for prompt, completion, reference in zip(prompts, completions, answer, strict=True)
        ]
        said = self._judged(keys)
        self._count(keys, said)
        return [float(said[key].right) for key in keys]

    @property
    def __name__(self) -> str:  # how TRL names the reward in its logs
        return f"verified_by_{self.verifier.name}"

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """`completions`, so that an instance can stand in TRL's `reward_funcs`."""
        return self.completions(prompts, completions, **columns)

    @staticmethod
    def _key(trajectory: Trajectory) -> Key | None:
        reference = golds(trajectory)[0]
        return None if trajectory.error is not None else (trajectory.question.text, reference, written(trajectory))

    def _judged(self, keys: Sequence[Key]) -> dict[Key, Verification]:
        new = list(dict.fromkeys(key for key in keys if key not in self.known))
        if new:
            run(self._ask(new))
        return {key: self.known[key] for key in keys}

    async def _ask(self, keys: Sequence[Key]) -> None:
        gate = asyncio.Semaphore(self.together)

        async def one(key: Key) -> None:
            async with gate:
                said = await self.verifier.verify(*key)
            if said.failed:
                raise ModelError(f"the verifier {self.verifier.name} did not answer ({said.failed.rstrip('.')})")
            self.known[key] = said

        await asyncio.gather(*map(one, keys))
        self.calls += len(keys)

    def _count(self, keys: Sequence[Key], said: dict[Key, Verification]) -> None:
        if self.gold is None:
            return
        step = VerifierAudit()
        for key in keys:
            right = self.gold(*key)
            self.audit.add(said[key].right, right)
            step.add(said[key].right, right)
        self.steps.append(step)


def verified(verifier: Verifier, **options: Any) -> Reward:
    """The reward of a verifier, for `ken.training.train`; keep the `VerifiedReward` itself to read its audit."""
    return VerifiedReward(verifier, **options).groups


def _said(text: Any) -> str:
    if isinstance(text, str):
        return text
    return "\n".join(str(message.get("content", "")) for message in text)
