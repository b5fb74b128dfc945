"""The words everyone uses: questions, passages, steps, trajectories, and the errors that name what went wrong.

They are loaded when they are first used: a command line that only needs the errors does not wait for pydantic.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ken.core.errors import BadInput as BadInput
    from ken.core.errors import DataError as DataError
    from ken.core.errors import KenError as KenError
    from ken.core.errors import ModelError as ModelError
    from ken.core.errors import SourceError as SourceError
    from ken.core.errors import TrainingError as TrainingError
    from ken.core.errors import Unsupported as Unsupported
    from ken.core.question import Question as Question
    from ken.core.sampling import Sampling as Sampling
    from ken.core.steps import Answer as Answer
    from ken.core.steps import Candidate as Candidate
    from ken.core.steps import Decision as Decision
    from ken.core.steps import Entity as Entity
    from ken.core.steps import GraphQuery as GraphQuery
    from ken.core.steps import Malformed as Malformed
    from ken.core.steps import Observation as Observation
    from ken.core.steps import Origin as Origin
    from ken.core.steps import Passage as Passage
    from ken.core.steps import Search as Search
    from ken.core.steps import Step as Step
    from ken.core.steps import SubQuestion as SubQuestion
    from ken.core.steps import Thought as Thought
    from ken.core.steps import ToolCall as ToolCall
    from ken.core.steps import Triple as Triple
    from ken.core.trajectory import Segment as Segment
    from ken.core.trajectory import Trajectory as Trajectory
    from ken.core.trajectory import Usage as Usage

_NAMES = {
    "errors": ("BadInput", "DataError", "KenError", "ModelError", "SourceError", "TrainingError", "Unsupported"),
    "question": ("Question",),
    "sampling": ("Sampling",),
    "steps": (
        "Answer",
        "Candidate",
        "Decision",
        "Entity",
        "GraphQuery",
        "Malformed",
        "Observation",
        "Origin",
        "Passage",
        "Search",
        "Step",
        "SubQuestion",
        "Thought",
        "ToolCall",
        "Triple",
    ),
    "trajectory": ("Segment", "Trajectory", "Usage"),
}
_HOMES = {name: f"ken.core.{home}" for home, names in _NAMES.items() for name in names}

__all__ = [  # noqa: PLE0604 (keys are strings)
    *_HOMES
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ken.core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
