"""Decoders choose what their formulas say, in batches as alone, and say what they did (card 57)."""

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from layered import A, B, hand_made, random_model, written  # noqa: E402

import ken  # noqa: E402
from ken.agents.instructions import READ  # noqa: E402
from ken.core import BadInput, ModelError, Sampling, Unsupported  # noqa: E402
from ken.models import Message  # noqa: E402
from ken.probing.decoders import CAD, LFD, ContrastiveSearch, DoLa, Greedy, NoiseDocuments  # noqa: E402
from ken.probing.decoders.cad import without_documents  # noqa: E402
from ken.probing.divergence import dola_compat, jsd  # noqa: E402
from ken.probing.lens import LogitLens  # noqa: E402
from ken.probing.loading import load_decoder  # noqa: E402

PROMPTS = [(5, 9, 2, 40, 17), (33, 8), (7,), (5, 9, 2, 40, 17, 3)]


@pytest.fixture(scope="module")
def model():
    return random_model()


def ids(rows):
    return [row.ids for row in rows]


# --- layer-fused decoding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["log_sum", "logit_sum", "hidden_mix"])
def test_without_weight_layer_fused_decoding_is_greedy(model, fusion):
    plain = written(model, PROMPTS)
    fused = written(model, PROMPTS, LFD(weight=0, fusion=fusion))
    assert ids(fused) == ids(plain) == ids(written(model, PROMPTS, Greedy()))
    assert not any(note.changed for row in fused for note in row.trace)


def test_with_alpha_1_only_the_final_layers_choice_is_plausible(model):
    assert ids(written(model, PROMPTS, LFD(alpha=1, weight=5))) == ids(written(model, PROMPTS))


def test_the_layer_whose_feed_forward_network_does_nothing_is_chosen(model):
    import copy

    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.model.layers[2].mlp.down_proj.weight.zero_()
    for row in written(changed, PROMPTS, LFD()):
        for note in row.trace:
            assert note.layer == 3
            assert dict(note.scores)[3] == pytest.approx(0, abs=1e-6)
            assert dict(note.scores)[2] > 0.01


def test_layers_that_disagree_are_added_up():
    """Layer 3 votes A, layer 4 votes B, both are plausible; the sum of their votes is for A."""
    (greedy,), (fused,) = written(hand_made(), [(0, 4)], Greedy()), written(hand_made(), [(0, 4)], LFD())
    assert greedy.ids == [B] * 4
    assert fused.ids == [A] * 4
    note = fused.trace[0]
    assert (note.layer, note.greedy, note.best, note.changed) == (3, B, A, True)
    assert note.scores == ((2, pytest.approx(note.scores[0][1])), (3, pytest.approx(0, abs=1e-6)))
    assert written(hand_made(), [(0, 4)], LFD(layers="2"))[0].trace[0].layer == 2


def test_one_step_follows_the_formula(model):
    lens = LogitLens(model)
    prompt = (5, 9, 2, 40, 17)
    with lens.recording() as states, torch.inference_mode():
        final = model(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    q = {layer: lens.log_probabilities(states.out[layer])[0] for layer in range(1, 5)}
    iks = {layer: float(jsd(lens.log_probabilities(states.mid[layer])[0], q[layer])) for layer in (2, 3)}
    chosen = min(iks, key=lambda layer: iks[layer])
    head = final >= final.max() + math.log(0.05)
    for weight in (0.5, 3.0):
        expected = (final + weight * q[chosen]).masked_fill(~head, -math.inf)
        (row,) = written(model, [prompt], LFD(weight=weight, alpha=0.05))
        assert (row.ids[0], row.trace[0].layer) == (int(expected.argmax()), chosen)
        assert dict(row.trace[0].scores) == pytest.approx(iks, abs=1e-5)
        assert row.logprobs[0] == pytest.approx(float(expected.log_softmax(-1).max()), abs=1e-4)
        mixed = lens.log_probabilities((states.out[4] + weight * states.out[chosen]) / (1 + weight))[0]
        (row,) = written(model, [prompt], LFD(weight=weight, alpha=0.05, fusion="hidden_mix"))
        assert row.ids[0] == int(mixed.masked_fill(~head, -math.inf).argmax())


def test_sums_of_logits_and_of_log_probabilities_are_one_distribution(model):
    by_log, by_logit = (written(model, PROMPTS, LFD(fusion=f, alpha=0.01)) for f in ("log_sum", "logit_sum"))
    assert ids(by_log) == ids(by_logit)
    for one, other in zip(by_log, by_logit, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_reading_the_head_alone_fuses_the_same(model):
    """Where IKS picks the same layer, the sum does not depend on which tokens it was measured over."""
    whole = written(model, PROMPTS, LFD(layers="3", alpha=0.05))
    head = written(model, PROMPTS, LFD(layers="3", alpha=0.05, iks_over="head"))
    assert ids(whole) == ids(head)
    assert written(model, PROMPTS, LFD(iks_over="head"))[0].trace[0].scores


@pytest.mark.parametrize(
    "decoder",
    [LFD(weight=2), LFD(choice="prompt"), LFD(choice="random"), DoLa(layers="1-3"), ContrastiveSearch()],
    ids=lambda d: d.name,
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_is_written_the_same_whoever_shares_its_batch(model, decoder, temperature):
    sampling = {"temperature": temperature, "max_tokens": 5}
    together = written(model, PROMPTS, decoder, sampling=sampling)
    for i, prompt in enumerate(PROMPTS):
        (alone,) = written(model, [prompt], decoder, sampling={**sampling, "seed": i})
        assert alone.ids == together[i].ids
        assert [n.layer for n in alone.trace] == [n.layer for n in together[i].trace]


def test_samples_are_drawn_from_what_was_fused(model):
    """Many samples of one prompt: only plausible tokens, and about as often as softmax(s) says."""
    rows = written(model, [PROMPTS[0]] * 400, LFD(alpha=0.1), sampling={"temperature": 1.0, "max_tokens": 1})
    lens = LogitLens(model)
    with lens.recording() as states, torch.inference_mode():
        final = model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].log_softmax(-1)
    s = final + lens.log_probabilities(states.out[rows[0].trace[0].layer])[0]
    fused = s.masked_fill(final < final.max() + math.log(0.1), -math.inf).softmax(-1)
    drawn = torch.bincount(torch.tensor([row.ids[0] for row in rows]), minlength=61) / 400
    assert not drawn[fused == 0].any()
    assert float((drawn - fused).abs().max()) < 0.1


def test_a_layer_chosen_once_stays(model):
    for row in written(model, PROMPTS, LFD(choice="prompt"), sampling={"max_tokens": 8}):
        assert len({note.layer for note in row.trace}) == 1
        assert len(row.trace) == len(row.ids)


# --- its peers -----------------------------------------------------------------------------------------------------


def test_dola_subtracts_the_layer_that_is_farthest(model):
    lens = LogitLens(model)
    with lens.recording() as states, torch.inference_mode():
        final = model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].log_softmax(-1)
    q = {layer: lens.log_probabilities(states.out[layer])[0] for layer in (1, 2, 3)}
    head = final >= final.max() + math.log(0.1)
    for compat, measure in ((False, jsd), (True, dola_compat)):
        farthest = max(q, key=lambda layer: float(measure(final, q[layer])))
        (row,) = written(model, [PROMPTS[0]], DoLa(layers="1-3", compat=compat))
        assert row.trace[0].layer == farthest
        assert row.ids[0] == int((final - q[farthest]).masked_fill(~head, -math.inf).argmax())
    (static,) = written(model, [PROMPTS[0]], DoLa(layers="1"))
    assert {note.layer for note in static.trace} == {1}


def test_context_aware_decoding_takes_what_the_documents_change(model):
    contrasts = [(5, 17), (8, 1, 2), (7,), (3,)]
    rows = written(model, PROMPTS, CAD(beta=1.0), contrasts=contrasts)
    for row, prompt, contrast in zip(rows, PROMPTS, contrasts, strict=True):
        said: list[int] = []
        for token in row.ids:  # two whole passes a token, without batch or cache
            with torch.inference_mode():
                outside, inside = (
                    model(input_ids=torch.tensor([[*p, *said]])).logits[0, -1].log_softmax(-1)
                    for p in (prompt, contrast)
                )
            assert token == int((2 * outside - inside).argmax())
            said.append(token)
    assert ids(written(model, PROMPTS, CAD(), contrasts=PROMPTS)) == ids(written(model, PROMPTS))


def test_contrastive_search_weighs_likeness_to_what_was_said(model):
    lens = LogitLens(model)
    assert ids(written(model, PROMPTS, ContrastiveSearch(penalty=0))) == ids(written(model, PROMPTS))
    rows = written(model, PROMPTS, ContrastiveSearch(penalty=0.6, top_k=3))
    for row, prompt in zip(rows, PROMPTS, strict=True):
        said = list(prompt)
        for token in row.ids:
            scores = {}
            with torch.inference_mode():
                top = model(input_ids=torch.tensor([said])).logits[0, -1].softmax(-1).topk(3)
            for p, v in zip(top.values.tolist(), top.indices.tolist(), strict=True):
                with lens.recording([4], everywhere=True) as states, torch.inference_mode():
                    model(input_ids=torch.tensor([[*said, v]]))
                    h = lens.norm(states.out[4])[0]
                like = torch.nn.functional.cosine_similarity(h[:-1], h[-1:], dim=-1).max()
                scores[v] = 0.4 * p - 0.6 * float(like)
            assert token == max(scores, key=lambda v: scores[v])
            said.append(token)


def test_the_second_context_is_the_prompt_without_documents():
    asked = [
        Message("system", READ),
        Message("user", "<information>Doc 1: one\nDoc 2: two</information>\n\nWho?"),
        Message("policy", "<search> x </search>", (1, 2)),
        Message("observation", "<information>three</information>"),
        Message("observation", READ),
    ]
    shown = [m.content for m in without_documents(asked)]
    assert shown == [READ, "Who?", "<search> x </search>", "", READ]


def test_noise_is_put_among_the_documents_and_not_the_same_for_all():
    decoder = NoiseDocuments(k=3, pool=("alpha beta", "gamma", "delta", "epsilon", "one"))
    asked = [Message("system", READ), Message("user", "<information>Doc 1: one</information>\n\nWho?")]
    (_, shown) = decoder.prompt(asked)
    lines = shown.content.partition("</information>")[0].split("\n")
    assert len(lines) == 4
    assert [line.partition(":")[0].removeprefix("<information>") for line in lines] == [f"Doc {i}" for i in range(1, 5)]
    assert sum(line.endswith(": one") for line in lines) == 1
    assert decoder.prompt(asked) == decoder.prompt(asked)
    orders = {
        decoder.prompt([Message("user", f"<information>Doc 1: one</information> {i}?")])[0].content for i in range(8)
    }
    assert len(orders) > 4
    assert decoder.prompt([Message("user", "Who?")])[0].content == "Who?"


# --- as users have it ----------------------------------------------------------------------------------------------


async def generate(model, text="What is the mentor of Kavelo?"):
    (generation,) = await model.generate(
        [Message("system", READ), Message("user", text)], sampling=Sampling(max_tokens=6)
    )
    return generation


def test_a_loaded_model_decodes_and_tells_what_happened():
    import asyncio

    model = ken.load_model("lab/factworld", decoder="lfd:weight=2,layers=2-3")
    assert model.spec == "lab/factworld+lfd:weight=2.0,layers=2-3"
    generation = asyncio.run(generate(model))
    assert generation.trace is not None
    assert len(generation.trace) == len(generation.token_ids) == 6
    assert all(note.layer in (2, 3) for note in generation.trace)
    assert asyncio.run(generate(ken.load_model("lab/factworld"))).trace is None
    same = asyncio.run(generate(ken.load_model("lab/factworld", decoder=LFD(weight=0))))
    assert same.token_ids == asyncio.run(generate(ken.load_model("lab/factworld", decoder="greedy"))).token_ids


@pytest.mark.parametrize("name", ["lfd", "dola", "cad", "contrastive", "greedy"])
def test_every_decoder_answers(name):
    answered = ken.ask("What is the mentor of Kavelo?", model="lab/factworld", strategy="direct", decoder=name)
    assert answered.model == f"lab/factworld+{name}"
    assert answered.error is None


def test_a_decoder_is_an_option_of_the_command_line():
    import typer
    from typer.testing import CliRunner

    from ken.cli.ask import ask

    app = typer.Typer()
    app.command()(ask)
    asked = ["Who?", "--model", "lab/factworld", "--strategy", "direct", "--json"]
    result = CliRunner().invoke(app, [*asked, "--decoder", "lfd:weight=2"])
    assert result.exit_code == 0, result.output
    assert '"lab/factworld+lfd:weight=2.0"' in result.output


def test_an_audit_names_the_decoder_and_goes_on_with_it_alone(tmp_path):
    asked = [ken.Question(id="q", text="What is the mentor of Kavelo?", answers=("Moru",))]
    settings = {"model": "lab/factworld", "out": tmp_path / "audit", "strategies": "direct", "samples": 2}
    report = ken.audit(asked, **settings, decoder="dola:layers=low")
    assert report.settings.model == "lab/factworld+dola:layers=low"
    with pytest.raises(BadInput):
        ken.audit(asked, **settings, decoder="lfd")


def test_a_server_has_no_hidden_states():
    with pytest.raises(Unsupported, match="hidden states"):
        ken.load_model("openai/some", decoder="lfd", base_url="http://localhost:1/v1")
    with pytest.raises(Unsupported, match="hidden states"):
        ken.ask("Who?", model="openai/some", strategy="direct", decoder="lfd", base_url="http://localhost:1/v1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nope", "there is no decoder 'nope'"),
        ("lfd:alpha=0", "alpha"),
        ("lfd:alpha=1.5", "alpha"),
        ("lfd:weight=-1", "weight"),
        ("lfd:weight=nan", "weight"),
        ("lfd:fusion=sum", "fusion"),
        ("lfd:beta=1", "no setting 'beta'"),
        ("cad:beta", "no setting 'beta'"),
        ("contrastive:penalty=2", "penalty"),
        ("greedy:x=1", "takes none"),
    ],
)
def test_a_decoder_that_cannot_be_is_refused_with_the_reason(text, says):
    with pytest.raises(BadInput, match=says):
        load_decoder(text)


@pytest.mark.parametrize(
    ("decoder", "says"),
    [
        ("lfd:layers=4-9", "1 to 4"),
        ("lfd:layers=x", "upper_half"),
        ("dola:layers=4", "1 to 3"),
        ("gd", "noise documents"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused_when_it_is_loaded(decoder, says):
    with pytest.raises((BadInput, ModelError), match=says):
        ken.load_model("lab/factworld", decoder=decoder)


def test_what_is_no_decoder_is_refused():
    with pytest.raises(BadInput, match="not 3"):
        ken.load_model("lab/factworld", decoder=3)


def test_a_model_with_a_decoder_is_not_trained():
    pytest.importorskip("trl")
    from ken.training.rl_config import RLConfig

    with pytest.raises(BadInput, match="load it without"):
        ken.train(ken.load_model("lab/factworld", decoder="lfd"), [], None, RLConfig())
