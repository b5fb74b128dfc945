"""The base model of FactWorld: its examples, its pretraining, and the checkpoint that ships."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `lab`")

from ken.core import BadInput  # noqa: E402
from ken.lab import FactWorld, FactWorldConfig  # noqa: E402
from ken.models import Message, load_model  # noqa: E402
from ken.models.lab import CHECKPOINTS  # noqa: E402
from ken.models.local import LocalModel  # noqa: E402
from ken.training.factworld_base import (  # noqa: E402
    FactWorldBaseConfig,
    build_tokenizer,
)
from ken.training.factworld_examples import (  # noqa: E402
    closed_book,
    deciding,
    pretraining_stages,
    querying,
    searching,
)
from ken.training.factworld_gates import measure_gates  # noqa: E402
from ken.training.lab_checkpoint import (  # noqa: E402
    build_checkpoint,
    is_checkpoint,
    read_checkpoint,
    untrained_llama,
)
from ken.training.lab_tokenizer import (  # noqa: E402
    encode,
)
from ken.training.pretraining import Example, PretrainingConfig, Weigh, masked_loss, pretrain  # noqa: E402

SMALL = FactWorldBaseConfig(
    world=FactWorldConfig(entities=12, demo_entities=8, distractors=4, values=5, max_exposures=6),
    hidden_size=32,
    intermediate_size=64,
    layers=2,
    heads=2,
    reading=40,
    reading_first=20,
    searching=20,
    querying=20,
    deciding=20,
)


@pytest.fixture(scope="module")
def world() -> FactWorld:
    return FactWorld(SMALL.world)


@pytest.fixture(scope="module")
def tokenizer(world: FactWorld) -> Any:
    return build_tokenizer(world)


def test_every_fact_is_shown_exactly_as_often_as_the_world_says(world: FactWorld, tokenizer: Any) -> None:
    shown = [tokenizer.decode(example.ids) for example in encode(list(closed_book(world)), tokenizer)]
    for fact in world.facts:
        asked = [text for text in shown if f"the {fact.relation} of {fact.entity} ?" in text]
        assert len(asked) == fact.exposures
        assert all(f"<answer> {fact.value} </answer>" in text for text in asked)


def test_no_example_of_another_kind_tells_a_fact_about_the_worlds_entities(world: FactWorld) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    for pieces in [*searching(SMALL, world, rng), *deciding(SMALL, world, rng)]:
        assert not any(f" {entity}?" in piece for piece, _ in pieces for entity in world.entities)
    for prompt, (query, _), (documents, _), (answer, _) in querying(SMALL, world, rng):
        assert prompt[0].endswith("<search>")
        assert not prompt[1], "neither the guess nor the decision to search is learnt"
        assert not any(value in query for values in world.values.values() for value in values)
        assert answer.split("<answer> ")[1].split()[0] in documents, "the answer is read, not known"


def test_verdicts_in_pretraining_say_nothing_about_what_is_known(world: FactWorld) -> None:
    import numpy as np

    config = SMALL.model_copy(update={"deciding": 4000})
    exposed = {fact.entity + fact.relation: fact.exposures > 0 for fact in world.facts}
    yes: dict[bool, list[bool]] = {True: [], False: []}
    for (prompt, _), (reply, _) in deciding(config, world, np.random.default_rng(0)):
        words = prompt.rstrip("?").split()
        yes[exposed[words[-1] + words[-3]]].append("<assessment> yes" in reply)
    assert all(abs(sum(said) / len(said) - 0.5) < 0.05 for said in yes.values())


def test_pieces_encode_like_the_whole_text(world: FactWorld, tokenizer: Any) -> None:
    examples = [example for stage in pretraining_stages(SMALL, world, tokenizer) for example in stage]
    for example in examples[:: len(examples) // 50]:
        text = tokenizer.decode(example.ids)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == list(example.ids)
        assert tokenizer.unk_token_id not in example.ids
        assert example.ids[-1] == tokenizer.eos_token_id
        assert example.learn[-1]


def test_the_prompt_of_an_example_is_what_the_model_will_be_given(
    world: FactWorld, tokenizer: Any, tmp_path: Path
) -> None:
    from ken.agents.instructions import CLOSED

    untrained_llama(SMALL, tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = LocalModel(tmp_path, control_tokens=True)
    fact = next(fact for fact in world.facts if fact.exposures)
    _, prompt = model.render([Message("system", CLOSED), Message("user", fact.question)])
    (example, *_) = encode([next(iter(closed_book(world)))], tokenizer)
    assert list(example.ids[: example.learn.index(True)]) == prompt


def test_the_loss_is_the_cross_entropy_of_the_learnt_tokens_alone(tokenizer: Any) -> None:
    model = untrained_llama(SMALL, tokenizer)
    ids = (1, 4, 30, 31, 32, 33, 2)
    learn = (False, False, False, True, True, False, True)
    short = Example((1, 4, 30, 2), (False, False, False, True))
    loss = masked_loss(model, [Example(ids, learn), short], pad_id=0)

    def by_hand(example: Example) -> list[Any]:
        logprobs = model(torch.tensor([example.ids])).logits[0].log_softmax(-1)
        return [-logprobs[i - 1, example.ids[i]] for i in range(len(example.ids)) if example.learn[i]]

    torch.testing.assert_close(loss, torch.stack(by_hand(Example(ids, learn)) + by_hand(short)).mean())


def test_pretraining_overfits_ten_examples(world: FactWorld, tokenizer: Any) -> None:
    model = untrained_llama(SMALL, tokenizer)
    ten = list({e.ids: e for e in encode(list(closed_book(world)), tokenizer)}.values())[:10]
    losses: list[float] = []
    settings = PretrainingConfig(batch=10, warmup=10)
    pretrain(model, [ten] * 300, settings, pad_id=0, on_step=lambda step, steps, loss: losses.append(loss))
    assert losses[0] > 1
    assert losses[-1] < 0.05


@pytest.mark.parametrize(("weigh", "low", "high"), [("token", 0.42, 0.58), ("batch", 0.7, 1.0)])
def test_a_choice_that_makes_an_example_short_is_as_likely_as_it_was_shown_if_tokens_weigh_the_same(
    tokenizer: Any, weigh: Weigh, low: float, high: float
) -> None:
    """Half of the examples choose 10 and end, half choose 11 and go on for a while: batches are sorted by length, so by
    batch the choice of the short ones weighs more."""
    model = untrained_llama(SMALL, tokenizer)
    short = Example((1, 4, 10, 2), (False, False, True, True))
    long = Example((1, 4, 11, *range(20, 40), 2), (False, False, *[True] * 22))
    pretrain(model, [[short, long] * 1600], PretrainingConfig(batch=16, warmup=10, weigh=weigh), pad_id=0)
    with torch.no_grad():
        probabilities = model(torch.tensor([[1, 4]])).logits[0, -1].softmax(-1)
    choices = probabilities[10:12]
    assert float(choices.sum()) > 0.85
    assert low < float(choices[0] / choices.sum()) < high


def test_the_same_seed_builds_the_same_checkpoint(tmp_path: Path) -> None:
    manifests = [build_checkpoint(SMALL, tmp_path / name) for name in ("a", "b")]
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert a == b
    assert manifests[0].gates == manifests[1].gates == read_checkpoint(tmp_path / "a").gates


def test_an_interrupted_build_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    build_checkpoint(SMALL, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}

    def interrupt(step: int, steps: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_checkpoint(SMALL, tmp_path / "model", on_step=interrupt)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_build_touches_no_folder_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(BadInput, match="choose another"):
        build_checkpoint(SMALL, tmp_path)
    assert (tmp_path / "letters.txt").read_text() == "mine"


def test_the_shipped_checkpoint_is_small_and_passes_its_gates() -> None:
    folder = CHECKPOINTS / "factworld"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8e6
    manifest = read_checkpoint(folder)
    assert not manifest.failed
    assert is_checkpoint(FactWorldBaseConfig(), folder), (
        "the shipped model was built with other settings; run `make lab`"
    )
    measured = asyncio.run(measure_gates(load_model("lab/factworld"), FactWorld(), samples=4))
    failing = [gate for gate in measured if gate.gating and not gate.passed]
    assert not failing
