"""The answer's words are found in a passage, where they say something."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ken.metrics import evidence
from ken.metrics.evidence import answer_spans, marked


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("Lima", "The capital of Peru is Lima.", ["Lima"]),
        ("lima", "LIMA, not Limassol", ["LIMA"]),
        ("in 1821", "Independence came in 1821 and in Lima", ["in 1821"]),
        ("The Bank of England", "the Bank of England of old", ["the Bank of England"]),
        ("Marie Curie", "Curie. Marie was her name, Marie Curie", ["Curie", "Marie", "Marie Curie"]),
        ("no", "I know no answer", ["no"]),
        ("東京", "日本の首都は東京です", ["東京"]),
        ("C++ (1985)", "he wrote C++ (1985) in time", ["C++ (1985)"]),
        ("Straße", "die STRASSE ist lang", ["STRASSE"]),
        ("Lima", "nothing of the kind", []),
        (None, "Lima", []),
        ("  ", "Lima", []),
    ],
)
def test_what_is_marked(answer, text, found):
    assert [text[start:end] for start, end in answer_spans(answer, text)] == found


@given(st.text(max_size=40), st.text(max_size=200))
def test_spans_lie_in_the_text_apart_and_in_order_and_the_pieces_make_up_the_text(answer, text):
    spans = answer_spans(answer, text)
    flat = [place for span in spans for place in span]
    assert flat == sorted(set(flat))
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert "".join(piece for piece, _ in marked(text, spans)) == text
    assert [piece for piece, is_marked in marked(text, spans) if is_marked] == [text[a:b] for a, b in spans]


def test_the_examples_hold():
    assert doctest.testmod(evidence).failed == 0
