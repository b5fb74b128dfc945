"""Rollouts written by vLLM instead of the policy's own forward passes, for models of billions of parameters.

TRL runs vLLM beside the trainer and hands it the weights after every update; this makes one lockstep batch of a local
model one call of vLLM's. Strategies, segments and rewards stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ken.core import ModelError, Sampling
from ken.models.decoding import Row


class VllmDecoder:
    """Writes rows to their end with TRL's `VLLMGeneration`.

    generation: of a colocated vLLM without tensor parallelism: with either, all processes must call it equally often,
    and agents do not. tokenizer: the `tokenizers.Tokenizer` of the policy. end_ids, limit: as for `decode`.
    """

    def __init__(self, generation: Any, tokenizer: Any, *, end_ids: frozenset[int], limit: int) -> None:
        self.generation, self.tokenizer, self.end_ids, self.limit = generation, tokenizer, end_ids, limit

    def __call__(self, rows: Sequence[Row]) -> None:
        """Raises `ModelError` when vLLM returns another number of completions, or no log-probabilities."""
        alike: dict[Sampling, list[Row]] = {}
        for row in rows:  # vLLM has one way of sampling a call; the seed it draws by itself
            alike.setdefault(row.sampling.but(seed=0), []).append(row)
        for sampling, group in alike.items():
            self._write(sampling, group)

    def _write(self, sampling: Sampling, rows: Sequence[Row]) -> None:
        generation = self.generation
        before = (generation.temperature, generation.top_p, generation.max_completion_length)
        given = dict(generation.generation_kwargs or {})
        generation.temperature, generation.top_p = sampling.temperature, sampling.top_p
        generation.max_completion_length = sampling.max_tokens
        generation.generation_kwargs = {**given, "stop": list(sampling.stop), "include_stop_str_in_output": True}
        try:
            _, written, logprobs, _ = generation.generate([list(row.prompt) for row in rows], None, 1)
        finally:
            generation.temperature, generation.top_p, generation.max_completion_length = before
            generation.generation_kwargs = given
        if logprobs is None or len(written) != len(rows):
            raise ModelError(f"vLLM gave {len(written)} completions for {len(rows)} prompts, or no log-probabilities")
        for row, ids, scores in zip(rows, written, logprobs, strict=True):
            for token, score in zip(ids, scores, strict=True):
                if row.ended is not None:  # what follows a stop string within its last token was not asked for
                    break
                row.extend(int(token), float(score[0]), self.tokenizer, self.end_ids, self.limit)
            row.ended = row.ended or "length"
