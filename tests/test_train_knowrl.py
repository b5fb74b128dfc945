"""`ken train knowrl`: rounds of introspection from a file of seeds, without an index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="needs the extra `train`")

from ken.core import BadInput, Question
from ken.lab.factworld import FactWorld
from ken.lab.render import questions
from ken.papers.recipes import recipe_of
from ken.papers.train import Listener, Progress, resume, train_on
from ken.training.factworld_variants import smoke_config
from ken.training.lab_checkpoint import built

SMALL: Mapping[str, Any] = {
    "steps": 2,
    "questions_per_step": 2,
    "group_size": 4,
    "rounds": 2,
    "runs": 2,
    "candidates": 8,
    "replayed": 8,
    "measured": 12,
    "save_every": 1,
}


class Killed(Exception):
    """Ends a training where it is raised, as a kill would."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FactWorld as a user would have it: a model that makes up tasks, and files of seeds."""
    folder = tmp_path_factory.mktemp("introspection")
    config = smoke_config("introspection")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        (folder / "model").symlink_to(built(config))
    demo = questions(FactWorld(config.world), "demo")[:16]
    lines = [{"question_id": q.id, "question": q.text, "answerable": i % 2 == 0} for i, q in enumerate(demo)]
    (folder / "seeds.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "one-kind.jsonl").write_text("\n".join(json.dumps(line) for line in lines if line["answerable"]))
    (folder / "plain.jsonl").write_text('{"id": "q", "question": "Why?", "golden_answers": ["so"]}\n')
    (folder / "foreign.jsonl").write_text(
        '{"question": "Can you juggle?", "answerable": false}\n{"question": "What is 1 + 1?", "answerable": true}\n'
    )
    return folder


def train(world: Path, out: Path, **changes: Any) -> Any:
    arguments: dict[str, Any] = {"model": f"lab/{world / 'model'}", "questions": world / "seeds.jsonl"}
    return train_on("knowrl", out=out, **{**arguments, **SMALL, **changes})


def reports(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]


def test_rounds_are_reported_and_an_interrupted_one_goes_on_as_if_it_had_not_been(world: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    whole = train(world, tmp_path / "whole", listener=Listener(on_note=notes.append))
    assert [report["round"] for report in reports(tmp_path / "whole")] == [0, 1, 2]
    assert [note[:7] for note in notes if note.startswith("round ")] == ["round 0", "round 1", "round 2"]
    assert [entry["step"] for entry in whole.logs["introspection"].history] == [1, 2, 3, 4]
    assert whole.model == tmp_path / "whole" / "model"
    assert (whole.model / "model.safetensors").is_file()
    assert not list((tmp_path / "whole").glob("round-*/model")), "only the last model is kept"

    run = tmp_path / "run"

    def kill(progress: Progress) -> None:
        if progress.step == 4:  # the second step of the second round
            raise Killed

    with pytest.raises(Killed):
        train(world, run, listener=Listener(kill))
    assert len(reports(run)) == 2
    assert not (run / "model").exists()
    made = [(run / f"round-{n}" / "tasks.json").read_bytes() for n in (1, 2)]
    trained = resume(run)
    assert trained.model == run / "model"
    assert [(run / f"round-{n}" / "tasks.json").read_bytes() for n in (1, 2)] == made, "nothing is made up again"
    assert reports(tmp_path / "whole")[1]["agreement"] == reports(run)[1]["agreement"]
    for one, other in zip(reports(tmp_path / "whole"), reports(run), strict=True):
        for name in ("pool", "candidates", "entered", "histogram"):
            assert one[name] == other[name]
        assert one["reward"] == pytest.approx(other["reward"], rel=1e-3, nan_ok=True)


def test_the_paper_s_constants_are_the_defaults() -> None:
    options = recipe_of("58").chosen({}).model_dump()
    assert (options["lr"], options["kl"], options["group_size"], 2 * options["questions_per_step"]) == (
        5e-7,
        1e-4,
        8,
        16,
    )
    assert (options["max_tokens"], options["temperature"], options["entry"]) == (1024, 1.0, 0.875)
    assert options["reward"] == "majority"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"index": "somewhere"}, "knowrl does not search, so that an index is of no use to it; leave --index out"),
        ({"questions": "one-kind.jsonl"}, "the seed holds no infeasible tasks"),
        ({"questions": "plain.jsonl"}, "(knowrl trains on seeds that say whether they are feasible"),
        ({"questions": "foreign.jsonl"}, "is no question about a demo entity of this model's world"),
        ({"questions": [Question(id="q", text="Why?")]}, "does not say whether it can be answered"),
        ({"top_k": 3}, "this paper has no option top_k"),
        ({"group_size": 1}, "group_size"),
        ({"rounds": 0}, "rounds cannot be 0"),
        ({"reward": "luck"}, "reward cannot be 'luck'"),
    ],
    ids=str,
)
def test_bad_input_is_refused_in_one_sentence_and_leaves_nothing(
    world: Path, tmp_path: Path, changes: Mapping[str, Any], said: str
) -> None:
    if isinstance(name := changes.get("questions"), str):
        changes = {**changes, "questions": world / name}
    with pytest.raises(BadInput) as caught:
        train(world, tmp_path / "run", **changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
