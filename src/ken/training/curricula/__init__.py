"""Which question next, and how hard to make it: data and sampling curricula (Wiki-R1, arXiv 2603.05256)."""

from ken.training.curricula.curriculum import Curriculum
from ken.training.curricula.gap import AtGapLevel, GapLevel, RetrievalEditor, gap_table, gold_passages
from ken.training.curricula.propagation import ObservationGraph, Propagation, propagate
from ken.training.curricula.sampling import (
    GaussianAccuracySampler,
    ObservedOnlySampler,
    Sampler,
    UniformSampler,
    gaussian_weights,
)
from ken.training.curricula.schedule import GapScheduler, LevelChange, StuckCurriculum

__all__ = [
    "AtGapLevel",
    "Curriculum",
    "GapLevel",
    "GapScheduler",
    "GaussianAccuracySampler",
    "LevelChange",
    "ObservationGraph",
    "ObservedOnlySampler",
    "Propagation",
    "RetrievalEditor",
    "Sampler",
    "StuckCurriculum",
    "UniformSampler",
    "gap_table",
    "gaussian_weights",
    "gold_passages",
    "propagate",
]
