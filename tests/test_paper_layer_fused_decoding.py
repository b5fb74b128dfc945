"""LFD's row: its arms and claims are the card's, and a smoke run of all of it measures what they ask for."""

from __future__ import annotations

import asyncio
import math
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from ken.lab.conflict import ConflictWorld  # noqa: E402
from ken.training import conflict_base as base  # noqa: E402
from ken.training.lab_checkpoint import untrained_llama  # noqa: E402
from ken.training.pretraining import masked_loss  # noqa: E402


@pytest.fixture(scope="module")
def row() -> Any:
    return import_module("ken.papers.57_layer_fused_decoding")


def test_arms_settings_and_claims_are_those_of_the_card(row: Any) -> None:
    arms = {"gd0", "gd2", "gd4", "contrastive", "dola", "cad", "lfd", "lfd-random", "lfd-oracle", "lfd-final"}
    assert {arm.name for arm in row.paper.arms if not arm.optional} == arms | {"analysis", "speed"}
    assert {f"natural-{name}" for name in arms} <= {arm.name for arm in row.paper.arms if arm.optional}
    full = row.paper.full
    assert (full.limit, full.alpha, full.weight) == (300, 0.1, 1.0)
    assert (full.base.layers, full.base.hidden_size, full.base.heads, full.base.lens_weight) == (8, 128, 4, 0.3)
    assert (full.base.world.known, full.base.world.attributes, full.base.room) == (80, 6, (0.4, 0.7))
    assert [claim.margin for claim in row.paper.claims] == [0.05, 0.05, -0.02, -0.02, 0.02, -0.1, 0, 0, 0]
    assert all(claim.kind == "hard" for claim in row.paper.claims)


def test_claims_point_the_right_way(row: Any) -> None:
    rates = {"acc_conflict": 0.5, "acc_agree": 0.9, "acc_no_evidence": 0.8}
    arms = {
        **dict.fromkeys(("gd0", "dola", "lfd-random"), rates),
        "lfd": {"acc_conflict": 0.7, "acc_agree": 0.9, "acc_no_evidence": 0.79},
        "lfd-oracle": {"acc_conflict": 0.75},
        "speed": {"greedy_us": 100.0, "lfd_us": 120.0, "cad_us": 180.0},
        "analysis": {"attends_lower": 0.2, "attends_upper": 0.1},
    }
    values = [claim.measure(arms) for claim in row.paper.claims]
    assert values == pytest.approx([0.2, 0.2, 0.0, -0.01, 0.2, -0.05, 0.15, 0.5, 0.1])


def test_the_seed_draws_questions_and_on_request_everything(row: Any) -> None:
    one, other = (row.Bench(row.paper.smoke, seed) for seed in (0, 1))
    assert one.config("constructed") == other.config("constructed")
    assert one.cases != other.cases
    own = row.Bench(row.paper.smoke.model_copy(update={"retrain": True}), 1).config("natural")
    assert (own.arm, own.seed, own.world.seed) == ("natural", 1, 1)


def test_reading_has_random_values_and_remembering_true_ones() -> None:
    import numpy as np

    config = base.smoke_config()
    world = ConflictWorld(config.world)
    rng = np.random.default_rng(0)
    read = list(base.reading(world, 50, rng, config.documents))
    true = list(base.remembering(world, 50, rng, config.documents, shown=0.5))

    def facts(pieces: Any) -> list[tuple[str, str, str]]:
        words = [text.split() for text, _ in pieces]
        return [(q[2], q[0], a[0]) for q, a in zip(words[1::2], words[2::2], strict=True)]

    for pieces in read:
        for entity, attribute, value in facts(pieces):
            assert f"{attribute} of {entity} {value} ." in pieces[0][0]  # it can be read
    assert any(world.facts.get((e, a)) != v for pieces in read for e, a, v in facts(pieces))
    for pieces in true:
        assert all(world.facts[e, a] == v for e, a, v in facts(pieces))
        assert len({a for _, a, _ in facts(pieces)}) == len(world.attributes)
    assert 0 < sum("Doc" in pieces[0][0] for pieces in true) < 50


def test_the_second_stage_changes_the_upper_half_alone() -> None:
    config = base.smoke_config()
    recipe = config.recipe()
    world = ConflictWorld(config.world)
    model = untrained_llama(config, recipe.tokenizer)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    few = config.model_copy(update={"room": (2.0, 3.0)})  # never done
    stages = [[], list(recipe.stages[1][:32])]
    base.construct(few, model, world, recipe.tokenizer, stages, lambda *step: None)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(int(name.split(".")[2]) >= config.half for name in changed)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_lens_loss_is_that_of_the_last_layer_and_a_share_of_the_others() -> None:
    config = base.smoke_config()
    recipe = config.recipe()
    model, batch = untrained_llama(config, recipe.tokenizer), recipe.stages[0][:4]
    last = masked_loss(model, batch, 0)
    assert base.lens_loss(model, batch, 0, 2, 0.0).item() == pytest.approx(last.item())
    with_lens = base.lens_loss(model, batch, 0, 2, 0.3).item()
    model.model.layers[3].self_attn.o_proj.weight.data.zero_()  # layer 4 adds nothing: layer 3 reads as it
    model.model.layers[3].mlp.down_proj.weight.data.zero_()
    same = masked_loss(model, batch, 0).item()
    two = base.lens_loss(model, batch, 0, 3, 0.3).item()
    assert two == pytest.approx(1.3 * same, rel=1e-4)
    assert with_lens > last.item()


def test_every_arm_of_a_smoke_run_measures_what_the_claims_ask_for(
    row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ken.papers.reproduce import reproduce

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shown = [arm.name for arm in row.paper.arms if not arm.optional]
    results = reproduce(row.paper, smoke=True, arms=[*shown, "natural-lfd"])
    assert not {name: arm.errors for name, arm in results.arms.items() if arm.errors}
    assert all(claim.value is not None and math.isfinite(claim.value) for claim in results.claims)
    measured = {name: arm.metrics[0] for name, arm in results.arms.items()}
    assert measured["lfd-final"] == measured["gd0"]
    assert len(measured["analysis"]["diff_attn_2"]) == 4
    best = max(v for name, v in measured["lfd-oracle"].items() if name.startswith("layer_"))
    assert measured["lfd-oracle"]["acc_conflict"] >= best


def test_gates_ask_only_questions_that_are_kept_for_them() -> None:
    from ken.core import Sampling
    from ken.models.scripted import ScriptedModel

    world = ConflictWorld(base.smoke_config().world)
    model = ScriptedModel(lambda prompt: "x", control_tokens=True)
    gates = asyncio.run(base.measure_gates(model, world, room=(0.4, 0.7), remembered=0.7, examples=20))
    gating = {gate.name for gate in gates if gate.gating}
    assert gating == {"a new entity, one document", "the document contradicts", "closed book"}
    asked = {call.prompt.split("\n\n")[-1] for call in model.calls}
    kept = {c.question.text for kind in ("conflict", "agree", "no-evidence", "new-entity") for c in _dev(world, kind)}
    assert asked <= kept
    assert all(call.sampling == Sampling(max_tokens=2) for call in model.calls)


def _dev(world: ConflictWorld, kind: Any) -> Any:
    count = len(world.new if kind == "new-entity" else world.known) * len(world.attributes) // 2
    return world.cases(kind, count, "dev")
