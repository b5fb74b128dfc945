"""Many callers share one local model: they move in lockstep, and the trouble of one stays its own."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from tiny_models import byte_level_tokenizer, generate, one, says, write_model

from ken.agents import SearchLoop
from ken.core import BadInput, ModelError, Passage, Question, Sampling
from ken.sources import Sources

torch = pytest.importorskip("torch", reason="local models need torch; install with: pip install 'ken[lab]'")

from ken.models import decoding  # noqa: E402
from ken.models.local import LocalModel  # noqa: E402

SAMPLED = Sampling(temperature=1.0, max_tokens=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama"), byte_level_tokenizer())


@pytest.fixture(scope="module")
def model(folder: Path) -> LocalModel:
    return LocalModel(folder)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every batch."""
    sizes: list[int] = []
    decode = decoding.decode

    def counting(model: Any, tokenizer: Any, rows: Any, **how: Any) -> None:
        sizes.append(len(rows))
        decode(model, tokenizer, rows, **how)

    monkeypatch.setattr(decoding, "decode", counting)
    return sizes


def test_concurrent_strategies_move_in_lockstep(model: LocalModel, batches: list[int], tmp_path: Path) -> None:
    from ken.sources.search.index import Index
    from ken.sources.search.retriever import IndexRetriever

    retriever = IndexRetriever(Index.build([Passage(id="a", text="word")], tmp_path / "i"))

    async def everything() -> None:
        asked = [Question(id=str(i), text=f"Question {i}?") for i in range(64)]
        runs = (SearchLoop(max_turns=3).run(q, model, Sources(search=retriever), sampling=SAMPLED) for q in asked)
        await asyncio.gather(*runs)

    asyncio.run(everything())
    assert len(batches) <= 8  # 3 + 1 turns, and what a straggler costs; one by one it would be 256
    assert batches[0] == 64


def test_no_batch_is_larger_than_asked_unless_one_request_is(folder: Path, batches: list[int]) -> None:
    small = LocalModel(folder, batch_size=4)
    generate(small, *"abcdefghij", n=1, max_tokens=2)
    generate(small, *"abc", n=3, max_tokens=2)
    generate(small, "a", n=9, max_tokens=2)
    assert batches == [4, 4, 2, 3, 3, 3, 9]


class Held:
    """A model whose third forward pass waits until it is let go. `passes` counts them."""

    def __init__(self, model: LocalModel) -> None:
        self.passes = 0
        self.begun, self.released = threading.Event(), threading.Event()
        model.model.register_forward_pre_hook(self)

    def __call__(self, *_: Any) -> None:
        self.passes += 1
        if self.passes == 3:
            self.begun.set()
            assert self.released.wait(60)


def test_a_cancelled_caller_leaves_the_batch_and_hurts_nobody(folder: Path) -> None:
    model = LocalModel(folder)
    model.end_ids = frozenset()
    expected = one(model, "Elbe", max_tokens=25).token_ids
    held = Held(model)

    async def everything() -> None:
        gone = asyncio.create_task(model.generate(says("Where?"), sampling=Sampling(max_tokens=100_000)))
        stays = asyncio.create_task(model.generate(says("Elbe"), sampling=Sampling(max_tokens=25)))
        await asyncio.to_thread(held.begun.wait, 60)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        held.released.set()
        assert (await stays)[0].token_ids == expected

    asyncio.run(everything())
    assert held.passes == 25  # and not the 1,400 or so that the cancelled one asked for


def test_a_failing_forward_pass_reaches_every_caller_and_the_model_recovers(folder: Path) -> None:
    fragile = LocalModel(folder)
    expected = one(fragile, "Elbe", max_tokens=5).token_ids

    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA out of memory\nand much more")

    async def everything() -> list[Any]:
        calls = (fragile.generate(says(p), sampling=SAMPLED) for p in "abc")
        return await asyncio.gather(*calls, fragile.score(says("a"), "b"), return_exceptions=True)

    hook = fragile.model.register_forward_pre_hook(fail)
    for error in asyncio.run(everything()):
        assert isinstance(error, ModelError)
        assert str(error).endswith("failed: RuntimeError: CUDA out of memory")
    hook.remove()
    assert one(fragile, "Elbe", max_tokens=5).token_ids == expected


def test_one_model_serves_successive_loops_and_loops_in_many_threads(model: LocalModel) -> None:
    expected = [one(model, p, max_tokens=8).token_ids for p in "ab"]
    assert [one(model, p, max_tokens=8).token_ids for p in "ab"] == expected
    found: dict[int, Any] = {}

    def work(i: int) -> None:
        found[i] = [g[0].token_ids for g in generate(model, "a", "b", max_tokens=8)]

    threads = [threading.Thread(target=work, args=[i]) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert list(found.values()) == [expected] * 8


def test_a_loop_that_was_stopped_in_the_middle_leaves_the_model_usable(folder: Path) -> None:
    model = LocalModel(folder)
    model.end_ids = frozenset()
    expected = one(model, "Elbe", max_tokens=8).token_ids
    held = Held(model)

    async def stopped() -> None:
        task = asyncio.create_task(model.generate(says("Where?"), sampling=Sampling(max_tokens=100_000)))
        await asyncio.to_thread(held.begun.wait, 60)
        assert not task.done()

    asyncio.run(stopped())  # cancels what is left
    held.released.set()
    assert one(model, "Elbe", max_tokens=8).token_ids == expected
    assert held.passes <= 3 + 8


def test_a_closed_model_says_so(folder: Path) -> None:
    closed = LocalModel(folder)
    asyncio.run(closed.close())
    for call in (closed.generate(says("a")), closed.score(says("a"), "b"), closed.hidden_states(says("a"))):
        with pytest.raises(ModelError, match="closed"):
            asyncio.run(call)


def test_n_and_batch_size_start_at_one(model: LocalModel, folder: Path) -> None:
    with pytest.raises(BadInput):
        generate(model, "a", n=0)
    with pytest.raises(BadInput):
        LocalModel(folder, batch_size=0)
