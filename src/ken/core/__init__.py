"""The words everyone uses: questions, passages, steps, trajectories, and the errors that name what went wrong."""

from ken.core.errors import BadInput, DataError, KenError, ModelError, SourceError, Unsupported
from ken.core.question import Question
from ken.core.sampling import Sampling
from ken.core.steps import Answer, Decision, Malformed, Observation, Passage, Search, Step, Thought, ToolCall
from ken.core.trajectory import Segment, Trajectory, Usage

__all__ = [
    "Answer",
    "BadInput",
    "DataError",
    "Decision",
    "KenError",
    "Malformed",
    "ModelError",
    "Observation",
    "Passage",
    "Question",
    "Sampling",
    "Search",
    "Segment",
    "SourceError",
    "Step",
    "Thought",
    "ToolCall",
    "Trajectory",
    "Unsupported",
    "Usage",
]
