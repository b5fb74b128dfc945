"""A conversation goes on where it stopped, and attempts that agree are computed once: the same text for less work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_models import byte_level_tokenizer, generate, says, write_model

from ken.core import BadInput, ModelError, Sampling
from ken.models import Generation, Message

torch = pytest.importorskip("torch", reason="local models need torch; install with: pip install 'ken[lab]'")

from transformers import AutoConfig, DynamicCache  # noqa: E402

from ken.models import decoding  # noqa: E402
from ken.models.decoding import Row  # noqa: E402
from ken.models.kept_turns import KeptTurns  # noqa: E402
from ken.models.local import LocalModel  # noqa: E402

STOPS = tuple("aeiourstn ")
QUESTIONS = ("Elbe", "Where does the Elbe end?", "x " * 20, "Elbe")
DOCUMENTS = ("It flows.", "<information>Doc 1 North Sea</information>", "日本", "a b c d e f g h i j k l m n o p")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp(request.param), byte_level_tokenizer(), kind=request.param)


class Counting:
    """Counts the tokens that a model reads (places in the batch times columns), a number for each pass."""

    def __init__(self, model: LocalModel) -> None:
        self.read: list[int] = []
        model.model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module: Any, args: Any, kwargs: Any) -> None:
        self.read.append(kwargs["input_ids"].numel())


def converse(
    model: LocalModel, questions: Sequence[str] = QUESTIONS, *, turns: int = 3, late: int = 1
) -> list[list[Generation]]:
    """Every question in a conversation of several turns, all at once; the last `late` of them one turn behind."""

    async def one(i: int) -> list[Generation]:
        conversation, made = says(questions[i]), []
        if i >= len(questions) - late:
            await model.generate(says("wait"), sampling=Sampling(max_tokens=1))
        for turn in range(turns):
            sampling = Sampling(temperature=1.0, max_tokens=9, stop=STOPS, seed=10 * i + turn)
            (generation,) = await model.generate(conversation, sampling=sampling)
            made.append(generation)
            document = DOCUMENTS[(i + turn) % len(DOCUMENTS)]
            policy = Message("policy", generation.text, generation.token_ids)
            conversation = [*conversation, policy, Message("observation", document)]
        return made

    async def everything() -> list[list[Generation]]:
        return await asyncio.gather(*(one(i) for i in range(len(questions))))

    return asyncio.run(everything())


def assert_same(left: Sequence[Sequence[Generation]], right: Sequence[Sequence[Generation]]) -> None:
    for a, b in zip(left, right, strict=True):
        assert [(g.prompt_token_ids, g.token_ids, g.text, g.ended) for g in a] == [
            (g.prompt_token_ids, g.token_ids, g.text, g.ended) for g in b
        ]
        for one, other in zip(a, b, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_a_conversation_goes_on_as_if_it_were_read_again(folder: Path) -> None:
    keeps, forgets = LocalModel(folder), LocalModel(folder, kept_bytes=0)
    counts = [Counting(keeps), Counting(forgets)]
    assert_same(converse(keeps), converse(forgets))
    assert sum(counts[0].read) < 0.7 * sum(counts[1].read)


def test_conversations_that_end_otherwise_than_at_a_stop_are_read_again_beside_those_that_do(folder: Path) -> None:
    model = LocalModel(folder)
    made = converse(model, [f"Question {i}?" for i in range(12)], turns=4, late=3)
    assert {g.ended for conversation in made for g in conversation[:-1]} >= {"stop", "length"}
    assert_same(
        made, converse(LocalModel(folder, kept_bytes=0), [f"Question {i}?" for i in range(12)], turns=4, late=3)
    )


def test_what_is_written_does_not_depend_on_the_threads_that_share_the_rows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[tuple[int, int]] = []  # thread and rows

    def noted(places: Any, **options: Any) -> None:
        shares.append((threading.get_ident(), sum(map(len, places))))
        real(places, **options)

    real = decoding._decode
    monkeypatch.setattr(decoding, "_decode", noted)
    questions = [f"Question {i % 40}?" for i in range(80)]
    before, made = torch.get_num_threads(), {}
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            shares.clear()
            made[count] = converse(LocalModel(folder), questions, late=20)
            shared_out = len({thread for thread, _ in shares}) > 1
            assert shared_out == (count > 1 and "llama" in str(folder)), (
                "only plain models, and only on several threads"
            )
            assert sum(rows for _, rows in shares) == 3 * len(questions) + 20
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    assert_same(made[1], made[3])


class Broken(Row):
    def extend(self, *_: Any) -> None:
        raise ModelError("broken")


def test_what_goes_wrong_in_one_share_is_told_once_all_have_ended(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "llama" not in str(folder):
        pytest.skip("only plain models are shared out")
    monkeypatch.setattr(decoding, "FEWEST_ROWS", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    model = LocalModel(folder)
    rows = [(Broken if i == 3 else Row)((5 + i,), Sampling(max_tokens=4)) for i in range(4)]
    try:
        with pytest.raises(ModelError, match="broken"):
            decoding.decode(
                model.model, model.tokenizer.backend_tokenizer, rows, end_ids=model.end_ids, pad_id=0, limit=64
            )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert all(row.ended for row in rows[:2]), "the other share was written to its end"


def in_place(model: Any) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)


def fused_step(model: Any) -> None:
    """Fused optimizers write to parameters without counting it as a write (torch 2.13)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


@pytest.mark.parametrize("change", [in_place, fused_step])
def test_nothing_is_kept_beyond_a_change_of_the_weights(folder: Path, tmp_path: Path, change: Any) -> None:
    model = LocalModel(folder)
    before = converse(model)
    change(model.model)
    # The first turns come from memory, as if their conversations had lasted through the change.
    go_on = [
        [*says(q), Message("policy", made[0].text, made[0].token_ids), Message("observation", "Now?")]
        for q, made in zip(QUESTIONS, before, strict=True)
    ]
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)

    async def answers(of: LocalModel) -> list[list[Generation]]:
        how = Sampling(temperature=1.0, max_tokens=9)
        return await asyncio.gather(*(of.generate(conversation, sampling=how) for conversation in go_on))

    assert_same(asyncio.run(answers(model)), asyncio.run(answers(LocalModel(tmp_path))))


def test_what_is_said_to_be_forgotten_is_read_again(folder: Path) -> None:
    model = LocalModel(folder, device="cpu")
    converse(model)
    assert model._turns is not None
    assert model._turns._places
    model.forget()
    assert not model._turns._places


def test_what_is_kept_stays_within_its_bytes_and_the_oldest_goes_first(folder: Path) -> None:
    model = LocalModel(folder)
    expected = converse(model)
    assert model._turns is not None
    whole = model._turns._size
    assert whole == sum(block.size for block in model._turns._blocks) > 0
    for most in (whole // 2, whole // 5, 1):
        tight = LocalModel(folder, kept_bytes=most)
        assert_same(converse(tight), expected)
        turns = tight._turns
        assert turns is not None
        assert turns._size == sum(block.size for block in turns._blocks) <= most
        assert {id(block) for block, _ in turns._places.values()} <= {id(block) for block in turns._blocks}
    with pytest.raises(BadInput, match="kept_bytes"):
        LocalModel(folder, kept_bytes=-1)


def test_caches_that_forget_tokens_are_not_kept() -> None:
    config = AutoConfig.for_model(
        "mistral", hidden_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, sliding_window=4
    )
    cache = DynamicCache(config=config)
    cache.update(torch.zeros(1, 1, 3, 8), torch.zeros(1, 1, 3, 8), 0)
    turns, row = KeptTurns(10**6), Row((1, 2), Sampling())
    row.ids = [3, 4]
    turns.keep(cache, torch.ones(1, 3, dtype=torch.int64), {0: row})
    assert turns.find([(1, 2, 3)]) == [None]


def test_attempts_that_agree_are_computed_once(folder: Path) -> None:
    model = LocalModel(folder)
    model.end_ids = frozenset()
    count = Counting(model)
    firsts = []
    for temperature in (0.7, 0.01):
        (sampled,) = generate(model, "Elbe", n=12, temperature=temperature, max_tokens=8)
        prompt = len(sampled[0].prompt_token_ids)
        distinct = [len({g.token_ids[:length] for g in sampled}) for length in range(1, 8)]
        assert count.read == [prompt, *distinct]
        firsts.append(distinct[0])
        count.read.clear()
    assert min(firsts) < 12
    generate(model, "Elbe", n=12, temperature=0.0, max_tokens=8)
    assert count.read == [prompt] + [1] * 7


def test_one_place_serves_rows_with_different_settings(folder: Path) -> None:
    model = LocalModel(folder)
    how = [
        Sampling(temperature=t, top_p=p, max_tokens=m, stop=stop, seed=i)
        for i, (t, p, m, stop) in enumerate(
            [(0.0, 1, 9, ()), (1.0, 1, 3, ()), (0.0, 1, 4, ()), (0.7, 0.8, 9, ()), (0.0, 1, 9, STOPS), (1.0, 1, 9, ())]
        )
    ]

    async def together() -> list[list[Generation]]:
        return await asyncio.gather(*(model.generate(says("Elbe"), sampling=sampling) for sampling in how))

    alone = [asyncio.run(model.generate(says("Elbe"), sampling=sampling)) for sampling in how]
    assert_same(asyncio.run(together()), alone)
