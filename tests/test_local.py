"""A local model decodes as transformers does, whoever shares its batch, and one caller's trouble stays its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import byte_fallback_tokenizer, byte_level_tokenizer, generate, one, says, write_model

from ken.agents import Direct, SearchLoop
from ken.core import ModelError, Passage, Question, Sampling
from ken.models import Model
from ken.sources import Sources

torch = pytest.importorskip("torch", reason="local models need torch; install with: pip install 'ken[lab]'")

from ken.models import decoding  # noqa: E402
from ken.models.decoding import TextStream, _Chooser, _sample  # noqa: E402
from ken.models.local import LocalModel  # noqa: E402

CONTEXT = 1500
SAMPLED = Sampling(temperature=1.0, max_tokens=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama"), byte_level_tokenizer(), context=CONTEXT)


@pytest.fixture(scope="module")
def model(folder: Path) -> LocalModel:
    return LocalModel(folder)


# --- decoding ---


def test_greedy_decoding_equals_transformers(model: LocalModel) -> None:
    assert isinstance(model, Model)
    prompts = ["Elbe", "Where does it end? 日本", "a b c d e f g"]
    for (generation,) in generate(model, *prompts, max_tokens=40):
        ids = torch.tensor([generation.prompt_token_ids])
        with torch.inference_mode():
            full = model.model.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :].tolist()
        assert list(generation.token_ids) == full
        assert generation.ended == ("end" if full[-1] in model.end_ids else "length")
        assert "".join(generation.tokens) == generation.text


def test_logprobs_equal_a_full_forward_pass_and_score(model: LocalModel) -> None:
    for temperature in (0.0, 1.0, 0.7):
        for (generation,) in generate(model, "Elbe", "Where does it end? 日本", temperature=temperature, max_tokens=20):
            prompt, ids = generation.prompt_token_ids, generation.token_ids
            with torch.inference_mode():
                logits = model.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
            expected = (logits / (temperature or 1.0)).log_softmax(-1)[range(len(ids)), list(ids)]
            assert generation.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    continuation = "<answer> North Sea </answer>"
    score = asyncio.run(model.score(says("Elbe"), continuation))
    assert list(score.token_ids) == model._encode(continuation)
    _, prompt = model.render(says("Elbe"))
    with torch.inference_mode():
        logits = model.model(torch.tensor([[*prompt, *score.token_ids]])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1)[range(len(score.token_ids)), list(score.token_ids)]
    assert score.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    assert score.total == pytest.approx(float(expected.sum()), abs=1e-3)
    assert asyncio.run(model.score(says("Elbe"), "")).total == 0.0


def test_a_row_does_not_depend_on_who_shares_its_batch(model: LocalModel) -> None:
    prompts = ["Elbe", "x " * 60, "Where does the Elbe end?", "Elbe", "日本語 🙂"]
    how = [
        Sampling(temperature=t, top_p=p, max_tokens=m, seed=i)
        for i, (t, p, m) in enumerate([(0, 1, 30), (1, 1, 3), (1, 0.8, 30), (0.5, 1, 17), (1.3, 0.95, 30)])
    ]

    async def together() -> list[Any]:
        return await asyncio.gather(
            *(model.generate(says(p), n=2, sampling=s) for p, s in zip(prompts, how, strict=True))
        )

    alone = [asyncio.run(model.generate(says(p), n=2, sampling=s)) for p, s in zip(prompts, how, strict=True)]
    for row, single in zip(asyncio.run(together()), alone, strict=True):
        assert [(g.token_ids, g.text, g.ended) for g in row] == [(g.token_ids, g.text, g.ended) for g in single]
        for a, b in zip(row, single, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_samples_are_reproducible_by_seed_and_differ_between_seeds(model: LocalModel) -> None:
    first, again, other = (generate(model, "Elbe", n=4, temperature=1.0, max_tokens=10, seed=s)[0] for s in (5, 5, 50))
    assert [g.token_ids for g in first] == [g.token_ids for g in again]
    assert not {g.token_ids for g in first} & {g.token_ids for g in other}
    assert len({g.token_ids for g in first}) == 4
    (alone,) = generate(model, "Elbe", temperature=1.0, max_tokens=10, seed=7)[0]
    assert alone.token_ids == first[2].token_ids  # sample i draws with seed + i


def test_samples_follow_the_distribution(model: LocalModel) -> None:
    from scipy.stats import chisquare

    generations = generate(model, "Elbe", n=4000, temperature=1.0, max_tokens=1)[0]
    with torch.inference_mode():
        p = model.model(torch.tensor([generations[0].prompt_token_ids])).logits[0, -1].double().softmax(-1).numpy()
    counts = Counter(g.token_ids[0] for g in generations)
    common = [i for i in range(len(p)) if p[i] * 4000 >= 8]
    observed = [counts[i] for i in common] + [4000 - sum(counts[i] for i in common)]
    expected = [4000 * p[i] for i in common]
    assert len(common) > 20
    assert chisquare(observed, [*expected, 4000 - sum(expected)]).pvalue > 0.001


@pytest.mark.parametrize(
    ("top_p", "allowed"), [(1.0, {0, 1, 2, 3}), (0.81, {0, 1, 3}), (0.8, {1, 3}), (0.5, {1}), (0.01, {1})]
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, allowed: set[int]) -> None:
    p = torch.tensor([[0.15, 0.5, 0.05, 0.3]]).repeat(2001, 1)
    uniforms = torch.linspace(0, 1, 2001, dtype=torch.float64)
    uniforms[-1] = 1 - 2**-53
    drawn = _sample(p, uniforms, torch.full((2001, 1), top_p)).tolist()
    assert set(drawn) == allowed
    total = sum([0.15, 0.5, 0.05, 0.3][i] for i in allowed)
    for token in allowed:
        assert drawn.count(token) / 2001 == pytest.approx([0.15, 0.5, 0.05, 0.3][token] / total, abs=0.002)


def test_a_token_without_probability_is_never_drawn() -> None:
    p = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]]).repeat(3, 1)
    edges = torch.tensor([0.0, 0.3, 1 - 2**-53], dtype=torch.float64)
    assert set(_sample(p, edges, None).tolist()) <= {1, 3}


def test_the_smallest_temperature_is_still_a_distribution() -> None:
    row = decoding.Row((1,), Sampling(temperature=1e-30))
    tokens, logprobs = _Chooser([row], torch.device("cpu")).choose(torch.tensor([[1.0, 90.0, 89.0]]))
    assert (tokens.tolist(), logprobs.tolist()) == ([1], [0.0])


def test_stop_strings_may_span_tokens_and_stay_in_the_text(model: LocalModel) -> None:
    free = one(model, "Elbe", max_tokens=30)
    for start in range(0, len(free.text) - 6, 3):
        stop = free.text[start : start + 5]
        stopped = one(model, "Elbe", max_tokens=30, stop=("never there", stop, ""))
        assert stopped.ended == "stop"
        assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]
        assert stop in stopped.text
        assert stop not in "".join(stopped.tokens[:-1])


def test_the_limits_of_tokens_and_of_the_context_end_a_row(model: LocalModel) -> None:
    assert len(one(model, "Elbe", max_tokens=7).token_ids) == 7
    text = "x" * (CONTEXT - 20 - len(model.render(says(""))[1]))  # a token each
    room = CONTEXT - len(model.render(says(text))[1])
    assert room == 20
    generation = one(model, text, temperature=1.0, max_tokens=4000)
    assert generation.ended == "end" or (len(generation.token_ids), generation.ended) == (room, "length")


def test_a_prompt_beyond_the_context_fails_alone(model: LocalModel) -> None:
    async def everything() -> list[Any]:
        prompts = ["Elbe", "x" * 2000, "Where?"]
        return await asyncio.gather(
            *(model.generate(says(p), sampling=SAMPLED) for p in prompts), return_exceptions=True
        )

    short, long, other = asyncio.run(everything())
    assert isinstance(long, ModelError)
    assert "fewer passages" in str(long)
    assert short[0].text
    assert other[0].text
    with pytest.raises(ModelError, match="fewer passages"):
        asyncio.run(model.score(says("x" * 2000), "y"))
    with pytest.raises(ModelError, match="fewer passages"):
        asyncio.run(model.hidden_states(says("x" * 2000)))


def test_finished_rows_may_outlast_learnt_positions(tmp_path: Path) -> None:
    gpt = LocalModel(write_model(tmp_path, byte_level_tokenizer(), context=128, kind="gpt2"))
    gpt.end_ids = frozenset()
    lengths = [len(gpt.render(says("x" * k))[1]) for k in (1, 50)]
    assert lengths[0] < lengths[1] < 128
    short, longer = generate(gpt, "x", "x" * 50, max_tokens=1000)  # ends at the context, one long before the other
    assert len(short[0].token_ids) == 128 - lengths[0]
    assert len(longer[0].token_ids) == 128 - lengths[1]


def test_nan_is_an_error_and_not_a_text(folder: Path) -> None:
    broken = LocalModel(folder)
    with torch.no_grad():
        broken.model.model.norm.weight.fill_(float("nan"))
    for temperature in (0.0, 1.0):
        with pytest.raises(ModelError, match="NaN"):
            one(broken, "Elbe", temperature=temperature)


def test_hidden_states_equal_those_of_transformers(model: LocalModel) -> None:
    states = asyncio.run(model.hidden_states(says("Elbe"), "<answer>"))
    ids = [*model.render(says("Elbe"))[1], *model._encode("<answer>")]
    assert states.shape == (3, len(ids), 32)
    assert str(states.dtype) == "float32"
    with torch.inference_mode():
        expected = model.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    for layer, layer_expected in zip(states, expected, strict=True):
        assert layer == pytest.approx(layer_expected[0].numpy(), abs=1e-5)


def test_usage_counts_a_prompt_once_for_all_samples(model: LocalModel) -> None:
    (generations,) = generate(model, "Elbe", n=3, max_tokens=5, temperature=1.0)
    total = sum((g.usage for g in generations), start=type(generations[0].usage)())
    assert total.prompt_tokens == len(generations[0].prompt_token_ids)
    assert total.completion_tokens == sum(len(g.token_ids) for g in generations)
    assert total.model_calls == 1


# --- text ---


@pytest.mark.parametrize("make", [byte_level_tokenizer, byte_fallback_tokenizer])
def test_streamed_text_equals_decoded_text_and_never_fails(make: Any) -> None:
    backend = make().backend_tokenizer

    @settings(max_examples=150, deadline=None)
    @given(st.text(max_size=30) | st.sampled_from(["日本語 🙂 text", " a", "�", "a � b"]))
    def valid(text: str) -> None:
        ids = backend.encode(text, add_special_tokens=False).ids
        stream = TextStream()
        assert "".join(stream.step(backend, i) for i in ids) + stream.rest(backend) == backend.decode(ids, False)

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.integers(0, backend.get_vocab_size() - 1), max_size=30))
    def arbitrary(ids: list[int]) -> None:
        stream = TextStream()
        text = "".join(stream.step(backend, i) for i in ids) + stream.rest(backend)
        text.encode()
        if "�" not in backend.decode(ids, False):
            assert text == backend.decode(ids, False)

    valid()
    arbitrary()


# --- tokens in, tokens out ---


class Awkward:
    """A retriever that answers every query with text that is awkward to tokenize."""

    name = "awkward"

    def __init__(self, text: str) -> None:
        self.text = text

    async def search(self, query: str, k: int) -> list[Passage]:
        return [Passage(id="p", title=self.text[::-1], text=self.text)]

    async def close(self) -> None:
        pass


class Recording:
    """A local model that writes random text but searches now and then, and remembers what it saw last.

    The queries are put in as sampled ids, cut anywhere, so that decoding and encoding them again gives other ids.
    """

    spec = "recording"

    def __init__(self, model: LocalModel) -> None:
        self.model = model
        self.calls: list[Any] = []

    async def generate(self, conversation: Any, *, n: int = 1, sampling: Sampling = Sampling()) -> list[Any]:
        from dataclasses import replace

        (generation,) = await self.model.generate(conversation, n=n, sampling=sampling.but(max_tokens=9))
        if len(self.calls) % 2 == 0:
            letters = [i for c in "<search> <sea rch é </search>" for i in self.model._encode(c)]  # letter by letter
            ids = (*generation.token_ids, *letters)
            text = generation.text + "<search> <sea rch é </search>"
            generation = replace(generation, text=text, token_ids=ids, logprobs=(0.0,) * len(ids), tokens=None)
        self.calls.append(generation)
        return [generation]

    async def score(self, conversation: Any, continuation: str) -> Any:
        return await self.model.score(conversation, continuation)

    async def close(self) -> None:
        pass


SCRAPS = ["<ans", "wer>", "</inform", "ation>", " ", "  ", "\n", "\n\n", "é", "\u0301", "🙂", "日", "<|im_", "a"]
awkward = st.text(max_size=30) | st.lists(st.sampled_from(SCRAPS)).map("".join)


@settings(max_examples=25, deadline=None)
@given(question=awkward.filter(str.strip), document=awkward, seed=st.integers(0, 10_000))
def test_segments_hold_exactly_the_ids_the_model_saw_and_sampled(
    model: LocalModel, question: str, document: str, seed: int
) -> None:
    recording = Recording(model)
    sampling = Sampling(temperature=1.0, seed=seed)
    strategy = SearchLoop(max_turns=3)
    trajectory = asyncio.run(
        strategy.run(Question(id="q", text=question), recording, Sources(search=Awkward(document)), sampling=sampling)
    )
    assert trajectory.error is None
    last = recording.calls[-1]
    segments = trajectory.segments
    assert [i for s in segments for i in s.token_ids] == [*last.prompt_token_ids, *last.token_ids]
    assert "".join(s.text for s in segments) == last.prompt_text + last.text
    policy = [s for s in segments if s.role == "policy"]
    assert [s.token_ids for s in policy] == [call.token_ids for call in recording.calls]
    assert sum(len(s.logprobs) for s in policy) == sum(len(call.token_ids) for call in recording.calls)
    assert all(s.logprobs is None for s in segments if s.role != "policy")


def test_encoding_again_would_have_given_other_ids(model: LocalModel) -> None:
    """Otherwise the test above proves nothing."""
    letters = [i for c in "<search>" for i in model._encode(c)]
    assert model._encode(model.tokenizer.decode(letters)) != letters


def test_a_lab_model_records_the_control_token_it_saw(folder: Path) -> None:
    lab = LocalModel(folder, control_tokens=True)
    run = Direct().run(Question(id="q", text="Why?"), lab, Sources(), sampling=SAMPLED)
    segments = asyncio.run(run).segments
    assert [s.role for s in segments] == ["prompt", "policy", "observation", "policy"]
    assert segments[2].text == "<invalid>"
    assert list(segments[2].token_ids) == lab._encode("<invalid>")
