"""How a model is sampled: one object for ask, audit and training, written into every log."""

from __future__ import annotations

from pydantic import Field

from ken.core.frozen import Frozen


class Sampling(Frozen):
    """Sampling parameters of one model call.

    temperature: ≥ 0; 0 is greedy.
    top_p: in (0, 1]; 1 keeps the sampled log-probabilities those of the policy itself (card 00, Pitfalls).
    max_tokens: new tokens per call, ≥ 1.
    stop: strings that end a generation; the string itself stays in the text.
    greedy_thoughts: think at temperature 0, up to `</think>`, and sample only what follows. Rollouts that share a
        prompt then share their thought, so that what is learnt from their differences is the action (card 01, guess
        first). For local models, which can go on in the middle of a turn.
    seed: of the draw; two calls with the same seed and prompt give the same text on a local model.
    """

    temperature: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_tokens: int = Field(default=512, ge=1)
    stop: tuple[str, ...] = ()
    greedy_thoughts: bool = False
    seed: int = 0

    def but(self, **changes: object) -> Sampling:
        """This sampling with some fields changed (validated, unlike `model_copy`)."""
        return Sampling.model_validate({**self.model_dump(), **changes})
