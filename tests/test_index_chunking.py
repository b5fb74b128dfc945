"""Cutting long texts: nothing is lost, order and overlap hold."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ken.core import BadInput
from ken.sources.search.chunking import _WORD, check_chunking, split_text

words = st.text(st.characters(exclude_categories=["Zs", "Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=6)
texts = st.lists(st.tuples(words, st.sampled_from([" ", ". ", "\n", "\n\n", "! ", "\t"])), max_size=120).map(
    lambda pairs: "".join(word + gap for word, gap in pairs)
)


def words_of(text: str) -> list[str]:
    return _WORD.findall(text)


@settings(max_examples=300, deadline=None)
@given(texts, st.integers(1, 20), st.data())
def test_no_word_is_lost_order_is_kept_and_neighbours_overlap_as_asked(
    text: str, size: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    chunks = [words_of(chunk) for chunk in split_text(text, size, overlap)]
    assert all(len(chunk) <= size for chunk in chunks)
    joined = chunks[0]
    for before, after in pairwise(chunks):
        assert overlap == 0 or before[-overlap:] == after[:overlap]
        assert len(after) > overlap
        joined = joined + after[overlap:]
    assert joined == words_of(text)


@given(texts, st.integers(1, 20))
def test_chunks_are_slices_of_the_text(text: str, size: int) -> None:
    assert all(chunk in text for chunk in split_text(text, size, 0))


@given(texts)
def test_a_short_text_is_returned_as_it_is(text: str) -> None:
    assert split_text(text, 500, 100) == [text]


def test_a_chunk_ends_at_a_paragraph_before_a_sentence_before_the_limit() -> None:
    numbered = [f"w{i}" for i in range(40)]
    assert split_text(" ".join(numbered), 20, 0)[0].endswith("w19")
    sentence = re.sub(r"\bw17\b", "w17.", " ".join(numbered))
    assert split_text(sentence, 20, 0)[0].endswith("w17.")
    paragraph = sentence.replace("w15 ", "w15\n\n")
    assert split_text(paragraph, 20, 0)[0].endswith("w15")
    early = " ".join(numbered).replace("w5 ", "w5\n\n")
    assert split_text(early, 20, 0)[0].endswith("w19"), "a boundary before the last quarter would make chunks too short"


def test_scripts_without_spaces_are_cut_by_character() -> None:
    text = "東京は日本の首都である。" * 30
    chunks = split_text(text, 50, 10)
    assert len(chunks) > 5
    assert all(len(words_of(chunk)) <= 50 for chunk in chunks)


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (-1, 0), (10, 10), (10, -1), (10, 11)])
def test_impossible_sizes_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(BadInput, match="word"):
        check_chunking(size, overlap)
