"""Which layers react when the answer is taken out of the documents (card 57, Layer analysis).

P is a prompt whose documents hold the answer A, P̂ the same with A taken away: deleted (for hidden states) or made
invisible to attention (for attention weights, whose columns must stay the same).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ken.core import BadInput
from ken.metrics.statistics import mean
from ken.probing.divergence import cosine, jsd
from ken.probing.lens import LogitLens

_DOCUMENTS = re.compile(r"<information>(.*?)</information>", re.DOTALL)

Prompt = tuple[str, str]
"""A rendered prompt, and the answer that its documents hold."""


@dataclass(frozen=True, slots=True)
class LayerReaction:
    """A layer (1 … L), over some prompts. sim_hidden: in [−1, 1], low where taking A away disturbs it. diff_attn: in
    [0, ln 2] nats, high where it attends to A."""

    layer: int
    sim_hidden: float
    diff_attn: float


def answer_spans(text: str, answer: str, *, within: tuple[int, int] | None = None) -> list[tuple[int, int]]:
    """Where the answer stands in the documents, as [start, end) of characters: whole words, in any case and spacing.

    within: where the documents are; by default what stands between `<information>` tags, or everything where there are
    none. Raises `BadInput` when it stands nowhere.
    """
    words = answer.split()
    parts = [within] if within else [found.span(1) for found in _DOCUMENTS.finditer(text)] or [(0, len(text))]
    spans = []
    if words:
        pattern = re.compile(r"(?<!\w)" + r"\s+".join(map(re.escape, words)) + r"(?!\w)", re.IGNORECASE)
        spans = [found.span() for start, end in parts for found in pattern.finditer(text, start, end)]
    if not spans:
        raise BadInput(
            f"the answer {answer!r} does not stand in the documents; analyse prompts whose documents hold it"
        )
    return spans


def locate(
    tokenizer: Any, text: str, answer: str, *, within: tuple[int, int] | None = None, begin: bool = False
) -> tuple[list[int], tuple[int, ...]]:
    """(token ids of the prompt, positions of the tokens that hold a part of the answer). tokenizer: a fast one of
    transformers. begin: put the marks that begin a sequence before the text. Raises `BadInput`, as `answer_spans`."""
    spans = answer_spans(text, answer, within=within)
    encoded = tokenizer.backend_tokenizer.encode(text, add_special_tokens=begin)
    held = [
        i
        for i, (start, end) in enumerate(encoded.offsets)
        if end > start and any(start < last and first < end for first, last in spans)
    ]
    return list(encoded.ids), tuple(held)


def without_answer(text: str, answer: str, *, within: tuple[int, int] | None = None) -> str:
    """The text with the answer deleted from its documents. Raises `BadInput`, as `answer_spans`."""
    for start, end in reversed(answer_spans(text, answer, within=within)):
        text = text[:start].rstrip(" ") + text[end:] if text[end : end + 1] == " " else text[:start] + text[end:]
    return text


@torch.inference_mode()
def sim_hidden(
    lens: LogitLens, ids: Sequence[int], ablated: Sequence[int], *, of: Literal["state", "ffn"] = "state"
) -> list[float]:
    """SimHidden_l = cos(h_l(P), h_l(P̂)) at the last token, for l = 1 … L. of: the state h_l that leaves the layer, or
    only what its feed-forward network adds ("FFN output" can be read as either)."""
    states = []
    for prompt in (ids, ablated):
        with lens.recording(ffn=of == "ffn") as recorded:
            lens.model(input_ids=torch.tensor([list(prompt)], device=lens.model.device), use_cache=False)
        found = recorded.ffn if of == "ffn" else recorded.out
        states.append(torch.cat([found[layer] for layer in range(1, lens.layers + 1)]).float())
    return [float(one) for one in cosine(*states)]


@torch.inference_mode()
def diff_attn(lens: LogitLens, ids: Sequence[int], hidden: Sequence[int]) -> list[list[float]]:
    """JSD(α_{l,m}(P) ‖ α̂_{l,m}(P̂)) of the attention of the last token, in nats, for l = 1 … L and each head m; their
    mean over heads is DiffAttn_l. hidden: the positions whose attention scores are −∞ in P̂, in all layers.

    Raises `BadInput` for positions that are not in the prompt, the last token among them.
    """
    if not hidden or min(hidden) < 0 or max(hidden) >= len(ids) - 1:
        raise BadInput(f"the tokens to hide are {list(hidden)}; they must lie before the last of {len(ids)} tokens")
    seen, blind = (_attention(lens.model, ids, blocked) for blocked in ((), hidden))
    return [jsd(p.log(), q.log()).tolist() for p, q in zip(seen, blind, strict=True)]


def _attention(model: Any, ids: Sequence[int], blocked: Sequence[int]) -> list[torch.Tensor]:
    """Attention weights of the last token in each layer, [heads, columns]."""
    n = len(ids)
    allowed = torch.ones(n, n, dtype=torch.bool, device=model.device).tril()
    allowed[:, list(blocked)] = False
    allowed[0, 0] = True  # the first token sees nothing else
    lowest = torch.finfo(model.dtype).min
    mask = torch.zeros(n, n, dtype=model.dtype, device=model.device).masked_fill(~allowed, lowest)
    with _eager(model):
        output = model(
            input_ids=torch.tensor([list(ids)], device=model.device),
            attention_mask=mask[None, None],
            output_attentions=True,
            use_cache=False,
        )
    return [weights[0, :, -1].float() for weights in output.attentions]


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """Fused kernels do not give their weights."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def analyse(
    lens: LogitLens, tokenizer: Any, prompts: Iterable[Prompt], *, of: Literal["state", "ffn"] = "state"
) -> list[LayerReaction]:
    """SimHidden and DiffAttn of every layer, means over the prompts (and heads). Raises `BadInput` for a prompt whose
    documents do not hold the answer, or when there are no prompts."""
    similar: list[list[float]] = []
    different: list[list[float]] = []
    for text, answer in prompts:
        ids, held = locate(tokenizer, text, answer)
        deleted = tokenizer.backend_tokenizer.encode(without_answer(text, answer), add_special_tokens=False).ids
        similar.append(sim_hidden(lens, ids, deleted, of=of))
        different.append([mean(heads) for heads in diff_attn(lens, ids, held)])
    if not similar:
        raise BadInput("there are no prompts to analyse; give at least one")
    return [
        LayerReaction(layer, mean(s), mean(d))
        for layer, s, d in zip(
            range(1, lens.layers + 1), zip(*similar, strict=True), zip(*different, strict=True), strict=True
        )
    ]


def noise_sweep(
    lens: LogitLens, tokenizer: Any, prompts: Callable[[int], Iterable[Prompt]], noise: Sequence[int] = (0, 2, 4)
) -> dict[int, list[LayerReaction]]:
    """`analyse` of the prompts with k noise documents, for each k in `noise`. prompts: from k to the prompts."""
    return {k: analyse(lens, tokenizer, prompts(k)) for k in noise}
