"""A gate reads from the hidden state what the labels say, routes by it, and says what it lacks."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from ken.agents.gated import Gated
from ken.core import BadInput, Passage, Question, Unsupported
from ken.lab.factworld import FactWorld
from ken.lab.render import questions
from ken.metrics import auroc
from ken.models import Model
from ken.models.lab import CHECKPOINTS
from ken.models.local import LocalModel
from ken.models.scripted import ScriptedModel
from ken.sources import Sources
from ken.training.factworld_base import FactWorldBaseConfig
from ken.training.gate import fit_gate, fit_logistic, state_of
from ken.training.lab_checkpoint import read_checkpoint

QUESTION = Question(id="q", text="Where?", answers=("here",))


class Finds:
    """A search engine that finds one thing."""

    name = "finds"

    async def search(self, query: str, k: int) -> list[Passage]:
        return [Passage(id="p", text="It is there.")]


def knows(probability: float) -> object:
    async def gate(question: Question, model: Model) -> float:
        return probability

    return gate


def reply(prompt: str) -> str:
    if "cannot look anything up" in prompt:
        return "<think> inside </think> <answer> here </answer>"
    return "<answer> there </answer>" if "<information>It" in prompt or "Doc 1" in prompt else "<search> q </search>"


@pytest.mark.parametrize(
    ("probability", "threshold", "searches", "answer"),
    [(0.5, 0.5, 0, "here"), (0.49, 0.5, 1, "there"), (0.8, 0.9, 1, "there")],
)
def test_the_gate_routes_by_its_threshold(probability: float, threshold: float, searches: int, answer: str) -> None:
    gated = Gated(knows(probability), threshold=threshold)  # type: ignore[arg-type]
    made = asyncio.run(gated.run(QUESTION, ScriptedModel(reply), Sources(search=Finds())))  # type: ignore[arg-type]
    assert (len(made.searches), made.answer) == (searches, answer)
    assert made.decision is not None
    assert (made.decision.knows, made.decision.confidence) == (searches == 0, probability)


def test_logistic_regression_is_scikit_learns() -> None:
    sklearn = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    states = rng.normal(size=(200, 5)) * [1, 2, 3, 4, 5]
    known = states @ [1.0, -0.5, 0.2, 0, 0] + rng.normal(size=200) > 0.3
    ours = fit_logistic(states, known, l2=0.01)
    theirs = sklearn.LogisticRegression(C=1 / (0.01 * 200), tol=1e-8, max_iter=5000)
    theirs.fit((states - states.mean(0)) / states.std(0), known)
    assert ours.weights == pytest.approx(theirs.coef_[0], abs=1e-3)
    assert ours.probabilities(states) == pytest.approx(
        theirs.predict_proba((states - states.mean(0)) / states.std(0))[:, 1], abs=1e-3
    )


def test_the_gate_of_the_labs_model_tells_what_it_was_shown() -> None:
    """On facts that it was not fitted on; that it is far from perfect is the point of the papers that train."""
    folder = CHECKPOINTS / "factworld"
    model = LocalModel(folder, spec="lab/factworld", device="cpu", batch_size=512)
    world = FactWorld(FactWorldBaseConfig.model_validate(read_checkpoint(folder).config).world)
    trained, held_out = questions(world, "train")[::3], questions(world, "test")[::4]
    labels = {q.id: bool(q.meta["exposures"]) for q in trained}
    gate = asyncio.run(fit_gate(model, trained, labels, l2=0.01, guess=2))

    async def ask() -> list[float]:
        return [await gate(question, model) for question in held_out]

    assert (auroc(asyncio.run(ask()), [bool(q.meta["exposures"]) for q in held_out]) or 0) > 0.62


def test_guessing_on_is_to_look_later() -> None:
    model = LocalModel(CHECKPOINTS / "factworld", spec="lab/factworld", device="cpu")
    question = Question(id="q", text="What is the club of Kavelo?", answers=("x",))
    before, after = (asyncio.run(state_of(question, model, guess=guess)) for guess in (0, 2))
    assert before.shape == after.shape == (128,)
    assert np.abs(before - after).max() > 0.1


def test_what_is_lacking_is_named() -> None:
    model = LocalModel(CHECKPOINTS / "factworld", spec="lab/factworld", device="cpu")
    other = Question(id="r", text="What?", answers=("x",))
    with pytest.raises(BadInput, match="'r' has no label"):
        asyncio.run(fit_gate(model, [QUESTION, other], {"q": True}))
    with pytest.raises(BadInput, match="2 known and 0 unknown"):
        asyncio.run(fit_gate(model, [QUESTION, other], {"q": True, "r": True}))
    with pytest.raises(BadInput, match="l2"):
        fit_logistic(np.zeros((2, 1)), np.array([True, False]), l2=0.0)
    with pytest.raises(BadInput, match="threshold"):
        Gated(knows(0.5), threshold=1.5)  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="hidden states"):
        asyncio.run(state_of(QUESTION, ScriptedModel(reply)))
