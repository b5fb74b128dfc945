"""The lens: what it reads is what the model computed, and divergences are what their names say (card 57)."""

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from layered import hand_made, random_model  # noqa: E402
from torch.nn import functional  # noqa: E402
from transformers import DynamicCache  # noqa: E402

from ken.core import BadInput, Unsupported  # noqa: E402
from ken.models.decoding import whole_forward  # noqa: E402
from ken.probing.calibration import calibration, table  # noqa: E402
from ken.probing.divergence import cosine, dola_compat, jsd, kl  # noqa: E402
from ken.probing.lens import LogitLens  # noqa: E402

logits = st.lists(st.floats(-30, 30), min_size=5, max_size=5)


@settings(max_examples=60, deadline=None)
@given(logits, logits)
def test_the_divergence_is_symmetric_and_between_0_and_ln_2(one, other):
    p, q = (torch.tensor(x).log_softmax(-1) for x in (one, other))
    assert jsd(p, q) == pytest.approx(float(jsd(q, p)), abs=1e-6)
    assert 0 <= float(jsd(p, q)) <= math.log(2) + 1e-6  # in single precision
    assert float(jsd(p, p)) == pytest.approx(0, abs=1e-6)
    m = (p.exp() + q.exp()) / 2
    by_hand = 0.5 * sum(float((x.exp() * (x - m.log())).sum()) for x in (p, q))
    assert float(jsd(p, q)) == pytest.approx(by_hand, abs=1e-5)


def test_distributions_that_share_nothing_are_ln_2_apart_and_infinitely_by_kl():
    p, q = torch.tensor([1.0, 0.0, 0.0]).log(), torch.tensor([0.0, 0.5, 0.5]).log()
    assert float(jsd(p, q)) == pytest.approx(math.log(2))
    assert float(kl(p, q)) == math.inf
    assert float(kl(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log())) == pytest.approx(
        0.1438, abs=1e-4
    )
    assert float(cosine(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]))) == pytest.approx(2**-0.5)


def test_what_dola_calls_jsd_is_kept_for_comparison():
    p, q = torch.randn(7).log_softmax(-1), torch.randn(7).log_softmax(-1)
    m = 0.5 * (p.exp() + q.exp())
    released = 0.5 * (functional.kl_div(p, m, reduction="none") + functional.kl_div(q, m, reduction="none")).mean(-1)
    assert float(dola_compat(p, q)) == pytest.approx(float(released), rel=1e-4)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "qwen3", "gpt2", "gemma"])
def test_states_are_those_that_the_model_computed_and_the_norm_is_applied_once(kind):
    model = random_model(kind)
    lens = LogitLens(model)
    ids = torch.tensor([[3, 5, 8, 13]])
    with lens.recording(everywhere=True, ffn=True) as states, torch.inference_mode():
        output = model(input_ids=ids, output_hidden_states=True)
    for layer in range(1, 4):  # transformers' last state is after the norm
        assert torch.allclose(states.out[layer], output.hidden_states[layer], atol=1e-5)
    assert torch.allclose(lens.logits(states.out[4]), output.logits, atol=1e-4)
    mlp = (model.transformer.h if kind == "gpt2" else model.model.layers)[1]
    between = mlp.ln_2 if kind == "gpt2" else mlp.post_attention_layernorm
    with torch.inference_mode():
        added = mlp.mlp(between(states.mid[2]))
    assert torch.allclose(states.ffn[2], added, atol=1e-4)
    some = torch.tensor([[1, 7, 30]])
    read = lens.logits_of(states.mid[3][:, -1], some)
    assert torch.allclose(read, lens.logits(states.mid[3][:, -1]).gather(-1, some), atol=1e-5)


def test_a_padded_batch_with_a_cache_reads_as_each_prompt_alone():
    model = random_model()
    lens = LogitLens(model)
    prompts, after = [(5, 9, 2, 40, 17), (33, 8)], 21
    ids = torch.tensor([[5, 9, 2, 40, 17], [0, 0, 0, 33, 8]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 1, 1]])
    cache = DynamicCache(config=model.config)
    with lens.recording() as states, torch.inference_mode():
        whole_forward(model, ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache)
        longer = torch.cat([mask, torch.ones(2, 1, dtype=mask.dtype)], dim=1)
        whole_forward(model, torch.full((2, 1), after), longer, longer.sum(-1, keepdim=True) - 1, cache)
        together = [(states.mid[layer].clone(), states.out[layer].clone()) for layer in range(1, 5)]
        for row, prompt in enumerate(prompts):
            model(input_ids=torch.tensor([[*prompt, after]]))
            for layer, (mid, out) in enumerate(together, start=1):
                assert torch.allclose(mid[row], states.mid[layer][0], atol=1e-4)
                assert torch.allclose(out[row], states.out[layer][0], atol=1e-4)


def test_hooks_are_gone_after_use():
    model = random_model()
    with pytest.raises(RuntimeError), LogitLens(model).recording():
        raise RuntimeError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def broken(change):
    model = random_model()
    change(model)
    return model


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: random_model(layers=3), "3 layers"),
        (lambda: random_model("gpt_neox"), "cannot be read"),
        (lambda: broken(lambda m: setattr(m.model, "norm", None)), "no final norm"),
        (lambda: broken(lambda m: setattr(m, "lm_head", None)), "no output head"),
        (lambda: broken(lambda m: setattr(m.config, "tie_word_embeddings", True)), "is not; load it again"),
        (lambda: random_model("gemma2"), "capped"),  # soft-capped logits are not what the lens reads
        (lambda: random_model("cohere"), "no state between"),  # both halves of a layer read the same state
        (lambda: torch.nn.Linear(2, 2), "cannot be read"),
    ],
    ids=["few layers", "neox", "no norm", "no head", "not tied", "capped", "parallel", "no decoder"],
)
def test_a_model_that_cannot_be_read_is_refused_with_the_reason(model, says):
    if says == "capped":
        model_ = model()
        model_.config.final_logit_softcapping = 0.5
        model = lambda: model_  # noqa: E731
    with pytest.raises(Unsupported, match=says):
        LogitLens(model())


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(Unsupported, match="layers 1 to 4"), LogitLens(random_model()).recording([5]):
        pass


def test_tied_and_untied_heads_are_told_apart():
    assert LogitLens(random_model(tied=True)).tied
    assert not LogitLens(random_model()).tied


def test_the_calibration_tells_which_layers_speak_like_the_last():
    readings = calibration(LogitLens(hand_made()), [(0, 4), (5,), (1, 2, 3)], batch_size=2)
    assert [r.layer for r in readings] == [1, 2, 3, 4]
    assert (readings[3].agrees, readings[3].distance) == (1.0, 0.0)
    assert readings[2].agrees == 0.0  # it says A, the model B
    assert readings[2].iks == pytest.approx(0.0, abs=1e-6)
    assert (readings[1].lowest, readings[2].lowest) == (0.0, 1.0)
    assert math.isnan(readings[3].lowest)
    assert table(readings).splitlines()[3].split()[0] == "3"
    with pytest.raises(BadInput):
        calibration(LogitLens(hand_made()), [])
