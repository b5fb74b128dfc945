"""Tokens in, tokens out: what is trained on is what was sampled, whatever the text looks like."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ken.agents import Direct, Strategy
from ken.agents.adaptive import decide
from ken.agents.attempt import Attempt
from ken.agents.instructions import SEARCH
from ken.agents.protocol import escape, render_passages
from ken.core import BadInput, Passage, Question, Sampling, Segment, Trajectory
from ken.models.local import LocalModel
from ken.sources import Sources
from ken.training.token_rows import TokenRow, token_batch, token_row
from tests.tiny_models import byte_fallback_tokenizer, byte_level_tokenizer, write_model

PIECES = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=6),
    st.sampled_from(
        ["<", ">", "/", "|", " ", "\n", "\u200b", "日", "🙂", "é", "</information>", "<|end|>", "<answer>", "[INST]"]
    ),
)
AWKWARD = st.lists(PIECES, max_size=12).map("".join)


class Conversation(Strategy):
    """Writes, hears something, writes again."""

    name = "conversation"

    def __init__(self, *heard: str) -> None:
        self.heard = heard

    async def solve(self, attempt: Attempt) -> None:
        attempt.begin(SEARCH, escape(attempt.question.text))
        await attempt.generate(stop=("</search>",))
        for text in self.heard:
            attempt.observe(text)
            await attempt.generate(stop=("</search>",))


class Recorder(LocalModel):
    """A model that keeps every call's ids beside what it returned."""

    calls: list[tuple[tuple[int, ...], tuple[int, ...]]]

    async def generate(self, conversation, *, n=1, sampling=Sampling()):  # type: ignore[no-untyped-def]
        result = await super().generate(conversation, n=n, sampling=sampling)
        self.calls += [(g.prompt_token_ids or (), g.token_ids or ()) for g in result]
        return result


@pytest.fixture(scope="module", params=["byte-level", "byte-fallback"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    tokenizer = byte_level_tokenizer() if request.param == "byte-level" else byte_fallback_tokenizer()
    return Recorder(write_model(tmp_path_factory.mktemp("m") / "m", tokenizer, context=4096), device="cpu")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=AWKWARD, found=AWKWARD, seed=st.integers(0, 2**31))
def test_trained_ids_are_the_sampled_ids_over_several_turns(
    model: Recorder, question: str, found: str, seed: int
) -> None:
    model.calls = []
    attempt = Conversation(found, render_passages([Passage(id="1", text=found or "-", title=question)])).run(
        Question(id="q", text=question if question.strip() else "?"),
        model,
        Sources(),
        sampling=Sampling(temperature=1.0, max_tokens=9, seed=seed),
    )
    row = token_row(asyncio.run(attempt))
    prompt, written = model.calls[-1]
    assert row.ids == prompt + written
    for turn, (before, ids) in enumerate(model.calls):
        start = len(before)
        assert row.ids[:start] == before
        assert row.ids[start : start + len(ids)] == ids
        assert set(row.turn[start : start + len(ids)]) == {turn}
        assert all(row.policy[start : start + len(ids)])
    assert sum(row.policy) == sum(len(ids) for _, ids in model.calls)
    assert all(lp <= 0 for lp in row.logprobs)
    assert all(lp == 0 for lp, own in zip(row.logprobs, row.policy, strict=True) if not own)


def segment(role: str, *ids: int) -> Segment:
    logprobs = tuple(-float(i) for i in ids) if role == "policy" else None
    return Segment(role=role, text="", token_ids=ids, logprobs=logprobs)  # type: ignore[arg-type]


def trajectory(*segments: Segment) -> Trajectory:
    return Trajectory(question=Question(id="q", text="?"), strategy="s", model="m", segments=segments)


def test_an_observation_at_the_end_is_left_out() -> None:
    row = token_row(trajectory(segment("prompt", 1, 2), segment("policy", 3), segment("observation", 4, 5)))
    assert row == TokenRow((1, 2, 3), (False, False, True), (0.0, 0.0, -3.0), (-1, -1, 0))


def test_several_conversations_cannot_be_one_row() -> None:
    with pytest.raises(BadInput, match="several conversations"):
        token_row(trajectory(segment("prompt", 1), segment("policy", 2), segment("prompt", 1), segment("policy", 3)))


def test_a_model_without_ids_cannot_be_trained() -> None:
    bare = Segment(role="policy", text="hello")
    with pytest.raises(BadInput, match="no token ids"):
        token_row(trajectory(segment("prompt", 1), bare))


def test_a_batch_has_no_padding_on_the_left() -> None:
    short = token_row(trajectory(segment("prompt", 1, 2), segment("policy", 3)))
    long = token_row(
        trajectory(
            segment("prompt", 4, 5, 6, 7), segment("policy", 8), segment("observation", 9), segment("policy", 10)
        )
    )
    batch = token_batch([short, long], pad_id=0)
    assert batch.opening.tolist() == [[1, 2], [4, 5]]
    assert batch.rest.tolist() == [[3, 0, 0, 0, 0], [6, 7, 8, 9, 10]]
    assert batch.real.tolist() == [[True, False, False, False, False], [True] * 5]
    assert batch.policy.tolist() == [[True, False, False, False, False], [False, False, True, False, True]]
    assert batch.turn.tolist() == [[0, -1, -1, -1, -1], [-1, -1, 0, -1, 1]]
    assert batch.last.tolist() == [0, 4]


def test_an_attempt_that_wrote_nothing_is_a_row_that_no_loss_sees() -> None:
    row = token_row(trajectory(segment("prompt", 1, 2)))
    other = token_row(trajectory(segment("prompt", 1, 2), segment("policy", 3)))
    batch = token_batch([row, other], pad_id=0)
    assert batch.policy.sum(1).tolist() == [0, 1]
    assert batch.real.any(1).all()


class Twice(Strategy):
    """Two conversations in one attempt, as deciding and then answering are."""

    name = "twice"

    async def solve(self, attempt: Attempt) -> None:
        await decide(attempt)
        await Direct().solve(attempt)


def test_a_strategy_of_several_conversations_is_refused(model: Recorder) -> None:
    model.calls = []
    sampling = Sampling(temperature=1.0, max_tokens=4)
    made = asyncio.run(Twice().run(Question(id="q", text="?"), model, Sources(), sampling=sampling))
    with pytest.raises(BadInput, match="make a task of each of its parts"):
        token_row(made)
