"""Introspection in FactWorld: a task is a question about a demo entity, which a model of the lab writes in two words.

The base model's variant "introspection" makes up tasks in its own format, `<gen> feasible: Kavelo birthplace → …`
(card 58, Miniature claim check).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ken.core import BadInput, Question, Sampling
from ken.lab.factworld import FactWorld
from ken.lab.render import questions
from ken.models.local import LAB_MANIFEST, LocalModel
from ken.training.factworld_base import FactWorldBaseConfig
from ken.training.factworld_examples import task_prompt
from ken.training.introspection import WRITTEN, Introspector, Request
from ken.training.lab_checkpoint import read_checkpoint


@dataclass(frozen=True, slots=True)
class FactWorldTasks:
    """The tasks that can be made up in a world, by how the model writes them: "Kavelo birthplace"."""

    questions: Mapping[str, Question]

    @classmethod
    def of(cls, world: FactWorld) -> FactWorldTasks:
        """Those about demo entities; held-out facts are never made up."""
        by_id = {question.id: question for question in questions(world, "demo")}
        demo = [fact for fact in world.facts if fact.split == "demo"]
        return cls({f"{fact.entity} {fact.relation}": by_id[fact.id] for fact in demo})

    def read(self, text: str) -> Question | None:
        """The question that a made-up task stands for; None when it is about nobody, or a held-out fact."""
        written = " ".join(text.split())
        question = self.questions.get(written)
        return question and stripped(question, written)

    def written(self, question: Question) -> str:
        """How the model writes a question. Raises `BadInput` for one that it cannot make up."""
        found = next((written for written, other in self.questions.items() if other.text == question.text), None)
        if found is None:
            raise BadInput(
                f"the seed {question.id!r} is no question about a demo entity of this model's world, as all of its "
                "tasks are; write the world's questions with `ken lab write`"
            )
        return found

    def introspector(self, sampling: Sampling) -> Introspector:
        """In the format of the lab."""
        return Introspector(reasons=(), ask=ask, read=self.read, sampling=sampling)


def ask(request: Request, examples: Sequence[str]) -> str:
    """The user's message to a model of the lab."""
    return task_prompt(request.kind, examples)


def stripped(question: Question, written: str = "") -> Question:
    """The question alone, without its answers or anything that the world knows of it."""
    return Question(id=question.id, text=question.text, meta={WRITTEN: written} if written else {})


def tasks_of(policy: LocalModel) -> FactWorldTasks | None:
    """The tasks of the world that a lab model lives in, None for any other model. Raises `BadInput` for a model of
    another world, which makes up nothing."""
    if not (policy.path / LAB_MANIFEST).is_file():
        return None
    manifest = read_checkpoint(policy.path)
    if manifest.world != FactWorldBaseConfig.called:
        raise BadInput(
            f"{policy.spec} lives in the world {manifest.world!r} and makes up no tasks; build one that does: "
            "ken lab build factworld --variant introspection"
        )
    return FactWorldTasks.of(FactWorld(FactWorldBaseConfig.model_validate(manifest.config).world))
