"""Tokenizers of lab worlds, in which everything that can be said is a word of its own, and examples in their ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ken.training.pretraining import Example

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"

Piece = tuple[str, bool]  # text, and whether the model is to learn to write it


def fast_tokenizer(backend: Any, *, special: Sequence[str], tags: Sequence[str], chat_template: str) -> Any:
    """`backend` (a `tokenizers.Tokenizer`) as transformers wants it.

    special: tokens that can be kept out of documents, the ends of a sequence among them. tags: ordinary tokens of one
    piece, so that decoding keeps them.
    """
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in tags])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def encode(texts: Sequence[Sequence[Piece]], tokenizer: Any) -> list[Example]:
    """Pieces to token ids. Word-level encoding does not depend on what stands beside a piece, so pieces are encoded
    apart.
    """
    flat = [text for pieces in texts for text, _ in pieces]
    unique = list(dict.fromkeys(flat))
    ids = dict(
        zip(
            unique,
            (e.ids for e in tokenizer.backend_tokenizer.encode_batch(unique, add_special_tokens=False)),
            strict=True,
        )
    )
    examples = []
    for pieces in texts:
        tokens = [token for text, _ in pieces for token in ids[text]]
        learn = [policy for text, policy in pieces for _ in ids[text]]
        examples.append(Example(tuple(tokens), tuple(learn)))
    return examples
