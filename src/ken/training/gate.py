"""Fit a gate: a linear classifier that reads from a model's hidden state whether it can answer a question alone.

The baseline of adaptive retrieval: a small classifier in front routes questions (Adaptive-RAG, arXiv 2403.14403), here
on the model's own last hidden state (probing what a model knows: Kadavath et al. 2022, arXiv 2207.05221) instead of a
second model's reading of the question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ken.agents.instructions import CLOSED
from ken.agents.protocol import escape
from ken.core import BadInput, Question, Sampling, Unsupported
from ken.models import Message, Model
from ken.models.local import LocalModel

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class HiddenStateGate:
    """p(knows) = σ(weights · (state − mean) / scale + bias); the state is `state_of` the question.

    weights, mean, scale: [width]. Called with a question and a model, as `ken.agents.gated.Gated` does. It belongs to
    the weights that it was fitted on. Raises `Unsupported` for a model that shows no hidden states.
    """

    weights: Vector
    bias: float
    mean: Vector
    scale: Vector
    guess: int

    async def __call__(self, question: Question, model: Model) -> float:
        state = await state_of(question, model, guess=self.guess)
        return float(self.probabilities(state[None])[0])

    def probabilities(self, states: Vector) -> Vector:
        """p(knows) of states [n, width]: [n]."""
        scores: Vector = (states - self.mean) / self.scale @ self.weights + self.bias
        return 1.0 / (1.0 + np.exp(-scores))


async def fit_gate(
    model: LocalModel, questions: Sequence[Question], labels: Mapping[str, bool], *, l2: float = 1e-3, guess: int = 0
) -> HiddenStateGate:
    """Fit a gate to what `model` was found to know. labels: question id → it can answer alone, as `SolveRates.labels`.

    l2: weight of half the squared norm of the weights beside the mean loss, above 0. guess: see `state_of`.
    Raises `BadInput` without questions, for a question without a label, and when all labels are equal: the gate would
    have nothing to tell apart.
    """
    if missing := [q.id for q in questions if q.id not in labels]:
        raise BadInput(f"the question {missing[0]!r} has no label; probe it first, or leave it out")
    known = np.array([labels[q.id] for q in questions], dtype=bool)
    if known.size == 0 or known.all() or not known.any():
        raise BadInput(
            f"the probe found {int(known.sum())} known and {int((~known).sum())} unknown questions, so a gate has "
            "nothing to tell apart; add questions of the other kind"
        )
    states = np.stack(await asyncio.gather(*(state_of(q, model, guess=guess) for q in questions)))
    return await asyncio.to_thread(fit_logistic, states, known, l2=l2, guess=guess)


async def state_of(question: Question, model: Model, *, guess: int = 0) -> Vector:
    """The last layer's state [width] at the end of the closed-book prompt, which is all that is known of the question
    before a word is written. guess: tokens of the model's own greedy answer to read on before looking.
    """
    if not isinstance(model, LocalModel):
        raise Unsupported(f"{model.spec} shows no hidden states; use a local model (hf/…) with this gate")
    conversation = [Message("system", CLOSED), Message("user", escape(question.text))]
    if guess:
        (said,) = await model.generate(conversation, sampling=Sampling(max_tokens=guess))
        conversation.append(Message("policy", said.text, said.token_ids))
    states = await model.hidden_states(conversation)
    state: Vector = states[-1, -1].astype(np.float64)
    return state


def fit_logistic(states: Vector, known: NDArray[np.bool_], *, l2: float = 1e-3, guess: int = 0) -> HiddenStateGate:
    """Logistic regression on standardised states [n, width] with labels [n]. Raises `BadInput` for l2 ≤ 0."""
    if l2 <= 0:
        raise BadInput(f"l2 is {l2}; it must be above 0, or separable labels would have no best fit")
    mean, scale = states.mean(axis=0), states.std(axis=0) + 1e-6
    inputs = torch.from_numpy((states - mean) / scale)
    targets = torch.from_numpy(known.astype(np.float64))
    weights = torch.zeros(inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        fit = torch.nn.functional.binary_cross_entropy_with_logits(inputs @ weights + bias, targets)
        value = fit + 0.5 * l2 * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return HiddenStateGate(weights.detach().numpy(), float(bias.detach()), mean, scale, guess)
