"""Labels that a model gives itself: solve rates of repeated samples, majority votes, both sides of its boundary."""

from ken.training.labels.boundary import BoundaryQuestions, boundary_questions, ever_solved, solved_at_least
from ken.training.labels.degenerate import DegenerateLabels, EqualLabels
from ken.training.labels.majority import Vote, majority, majority_answer
from ken.training.labels.solve_rate import (
    SolveRates,
    flip_rate,
    label,
    measure_solve_rates,
    read_solve_rates,
    write_solve_rates,
)

__all__ = [
    "BoundaryQuestions",
    "DegenerateLabels",
    "EqualLabels",
    "SolveRates",
    "Vote",
    "boundary_questions",
    "ever_solved",
    "flip_rate",
    "label",
    "majority",
    "majority_answer",
    "measure_solve_rates",
    "read_solve_rates",
    "solved_at_least",
    "write_solve_rates",
]
