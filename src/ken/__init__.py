"""Ken: know the boundary between what a model holds inside and what it must get from outside.

The public names are loaded when they are first used, so that `import ken` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ken.agents.ask import ask as ask
    from ken.agents.ask import ask_async as ask_async
    from ken.auditing import audit as audit
    from ken.auditing import load_audit as load_audit
    from ken.auditing import rescore as rescore
    from ken.core import Passage as Passage
    from ken.core import Question as Question
    from ken.core import Sampling as Sampling
    from ken.core import Trajectory as Trajectory
    from ken.papers.catalogue import load_paper as load_paper
    from ken.papers.reproduce import reproduce as reproduce
    from ken.probing.loading import load_model as load_model
    from ken.sources.search.index import Index as Index
    from ken.training.train import train as train

__version__ = "0.1.0"

_HOMES = {
    "Index": "ken.sources.search.index",
    "Passage": "ken.core",
    "Question": "ken.core",
    "Sampling": "ken.core",
    "Trajectory": "ken.core",
    "ask": "ken.agents.ask",
    "ask_async": "ken.agents.ask",
    "audit": "ken.auditing",
    "load_audit": "ken.auditing",
    "load_model": "ken.probing.loading",
    "load_paper": "ken.papers.catalogue",
    "reproduce": "ken.papers.reproduce",
    "rescore": "ken.auditing",
    "train": "ken.training.train",
}

__all__ = [  # noqa: PLE0604 (keys are strings)
    "__version__",
    *_HOMES,
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ken' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
