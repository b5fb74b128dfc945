"""Which layers react when the answer is taken out of the documents (card 57, Layer analysis)."""

import math
from random import Random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from layered import random_model  # noqa: E402
from tiny_models import byte_level_tokenizer  # noqa: E402

from ken.core import BadInput  # noqa: E402
from ken.probing.ablation import (  # noqa: E402
    analyse,
    answer_spans,
    diff_attn,
    locate,
    noise_sweep,
    sim_hidden,
    without_answer,
)
from ken.probing.lens import LogitLens  # noqa: E402
from ken.probing.noise import noise_documents  # noqa: E402

TEXT = "<information>Doc 1: The Elbe ends in the North  Sea . Northern seas.</information>\n\nNorth Sea or not?"


def test_the_answer_is_found_in_the_documents_alone():
    ((start, end),) = answer_spans(TEXT, "north sea")
    assert TEXT[start:end] == "North  Sea"
    assert without_answer(TEXT, "north sea") == TEXT.replace(" North  Sea .", " .")
    assert len(answer_spans("Sea, sea and seas", "sea")) == 2
    assert answer_spans("a b a", "a", within=(1, 5)) == [(4, 5)]


@pytest.mark.parametrize("answer", ["Baltic", "orth", "", "not"])
def test_an_answer_that_is_not_there_is_an_error(answer):
    with pytest.raises(BadInput, match="does not stand in the documents"):
        answer_spans(TEXT, answer)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["Elbe", "flows", "héllo", "日本語", "North", "Sea"]), min_size=1, max_size=8), st.data()
)
def test_the_located_tokens_spell_the_answer(words, data):
    answer = data.draw(st.sampled_from(words))
    tokenizer = TOKENIZER
    text = " ".join(words)
    ids, held = locate(tokenizer, text, answer)
    spelt = tokenizer.decode([ids[i] for i in held])
    assert spelt.count(answer) == words.count(answer)
    rest = tokenizer.decode([token for i, token in enumerate(ids) if i not in held])
    assert answer not in rest


TOKENIZER = byte_level_tokenizer()


@pytest.fixture(scope="module")
def lens():
    return LogitLens(random_model(vocabulary=len(TOKENIZER)))


def test_hiding_what_no_layer_reads_changes_nothing(lens):
    """Attention that is zero on a token before it is hidden is as it was afterwards."""
    ids = [5, 9, 2, 40, 17]
    heads = diff_attn(lens, ids, [2])
    assert len(heads) == 4
    assert all(len(one) == 4 and all(0 <= d <= math.log(2) for d in one) for one in heads)
    with torch.inference_mode(), _eager(lens.model):
        weights = lens.model(input_ids=torch.tensor([ids]), output_attentions=True).attentions[0][0, :, -1]
    # In the first layer the rest keeps its proportions: JSD has a closed form in the weight a of what is hidden.
    for head, a in zip(heads[0], weights[:, 2].tolist(), strict=True):
        q = 1 / (1 - a)
        by_hand = 0.5 * (a * math.log(2) + (1 - a) * math.log(2 / (1 + q)) + math.log(2 * q / (1 + q)))
        assert head == pytest.approx(by_hand, abs=1e-4)
    assert lens.model.config._attn_implementation == "sdpa"


def _eager(model):
    from ken.probing.ablation import _eager as eager

    return eager(model)


def test_the_same_prompt_is_wholly_similar(lens):
    for of in ("state", "ffn"):
        assert sim_hidden(lens, [5, 9, 2], [5, 9, 2], of=of) == pytest.approx([1.0] * 4, abs=1e-5)
        assert min(sim_hidden(lens, [5, 9, 2], [5, 2], of=of)) < 0.999


@pytest.mark.parametrize("hidden", [[], [4], [-1], [9]])
def test_what_cannot_be_hidden_is_refused(lens, hidden):
    with pytest.raises(BadInput, match="must lie before the last"):
        diff_attn(lens, [5, 9, 2, 40, 17], hidden)


def test_the_sweep_has_a_row_for_each_layer_and_amount_of_noise(lens):
    pool = ["The Elbe flows", "héllo wörld"]

    def prompts(k):
        documents = ["It ends in the North Sea", *noise_documents(k, pool, Random(0))]
        return [(f"<information>{' '.join(documents)}</information> Where?", "North Sea")]

    swept = noise_sweep(lens, TOKENIZER, prompts, (0, 2))
    assert list(swept) == [0, 2]
    assert [r.layer for r in swept[2]] == [1, 2, 3, 4]
    assert swept[0] != swept[2]
    with pytest.raises(BadInput, match="does not stand"):
        analyse(lens, TOKENIZER, [("Where?", "here")])
    with pytest.raises(BadInput, match="no prompts"):
        analyse(lens, TOKENIZER, [])


def test_noise_never_holds_the_answer():
    pool = ["the sea", "the hill of Elbe", "a tree", "Elbe and sea"]
    rng = Random(1)
    assert set(noise_documents(2, pool, rng, answer="sea")) == {"the hill of Elbe", "a tree"}
    assert noise_documents(1, pool, rng, kind="topic", question="Where is the Elbe?", answer="sea") == [
        "the hill of Elbe"
    ]
    words = noise_documents(3, pool, rng, kind="words", answer="sea")
    assert len(words) == 3
    assert set(" ".join(words).split()) <= {"the", "hill", "of", "Elbe", "a", "tree"}
    for count in (3, -1):
        with pytest.raises(BadInput, match="cannot be made"):
            noise_documents(count, pool, rng, answer="sea")
