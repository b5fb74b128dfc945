"""A reproduction resumes, survives what fails, and its results hold everything that a verdict rests on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
from pathlib import Path

import fake_paper
import numpy as np
import pytest
from fake_paper import SLUG, Config, FakeKen, paper

from ken.core import BadInput
from ken.papers import Arm
from ken.papers.reproduce import Progress, reproduce
from ken.papers.results import Results, read_results

KEYS = ["slug", "paper", "config", "seeds", "versions", "machine", "wall_seconds", "arms", "claims"]
CLAIM_KEYS = ["text", "kind", "margin", "value", "interval", "verdict", "note"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))


def logged() -> list[str]:
    return [line.split()[0] for line in Path("log").read_text(encoding="utf-8").splitlines()]


def numbers(results: Results) -> dict[str, object]:
    """What must be equal between two reproductions, and is not a time."""
    return {name: (arm.metrics, arm.mean, arm.std, arm.errors) for name, arm in results.arms.items()} | {
        "claims": results.claims
    }


def test_the_file_has_the_keys_that_were_agreed():
    reproduce(paper)
    text = Path("results", f"{SLUG}.json").read_text(encoding="utf-8")
    assert '"curve": [0.0, 0.15, 0.3],' in text  # for people and for diffs
    written = json.loads(text)
    assert list(written) == KEYS
    assert all(list(claim) == CLAIM_KEYS for claim in written["claims"])
    assert (written["slug"], written["seeds"], written["config"]) == (SLUG, [0, 1, 2], {"questions": 1000, "gain": 0.4})
    assert written["paper"]["arxiv"] == "2505.12452"
    assert {"ken", "code", "python", "numpy"} <= written["versions"].keys()
    assert {"system", "processor", "cores"} <= written["machine"].keys()
    method = written["arms"]["method"]
    assert [method["metrics"][seed]["em"] for seed in ("0", "1", "2")] == pytest.approx([0.70, 0.71, 0.72])
    assert (method["mean"]["em"], method["std"]["em"]) == (pytest.approx(0.71), pytest.approx(0.01))
    assert method["metrics"]["0"]["curve"] == pytest.approx([0, 0.35, 0.7])
    assert "curve" not in method["mean"]
    assert "knows" not in method["mean"]  # undefined, and so is its mean
    assert [claim["verdict"] for claim in written["claims"]] == [
        "holds",
        "fails",
        "inconclusive",
        "inconclusive",
        "holds",
    ]
    assert written["claims"][2]["note"] == "a note; the mean of 3 seeds meets the margin"
    assert written["claims"][3]["note"] == "arm half has no result on seed 0, 1, 2"


def test_results_are_read_as_they_were_written():
    results = reproduce(paper)
    again = read_results(SLUG)
    assert again is not None
    assert again.model_dump_json() == results.model_dump_json()  # by text, since nan is not equal to itself
    assert read_results("adasearch") is None


def test_a_second_call_runs_nothing_again():
    first = reproduce(paper)
    before = logged()
    assert before == ["bench:0", "base:0", "method:0", "bench:1", "base:1", "method:1", "bench:2", "base:2", "method:2"]
    second = reproduce(paper)
    assert logged() == before
    assert numbers(second)["claims"] == numbers(first)["claims"]
    assert second.wall_seconds == first.wall_seconds


def test_more_seeds_and_more_arms_run_only_what_is_new():
    reproduce(paper, seeds=2)
    before = len(logged())
    reproduce(paper, seeds=3)
    assert logged()[before:] == ["bench:2", "base:2", "method:2"]
    before = len(logged())
    results = reproduce(paper, seeds=3, arms=["all"])
    assert logged()[before:] == ["bench:0", "half:0", "bench:1", "half:1", "bench:2", "half:2"]
    assert results.claims[3].verdict == "holds"
    before = len(logged())
    assert reproduce(paper, seeds=3).claims[3].verdict == "holds", "what was measured of the optional arm stays"
    assert "half" not in reproduce(paper, seeds=4).arms, "a seed of it is missing"
    assert logged()[before:] == ["bench:3", "base:3", "method:3"]


def test_other_settings_are_another_experiment():
    reproduce(paper, seeds=1)
    before = len(logged())
    changed = dataclasses.replace(paper, full=Config(gain=0.2))
    assert reproduce(changed, seeds=1).arms["method"].mean["em"] == pytest.approx(0.5)
    assert logged()[before:] == ["bench:0", "base:0", "method:0"]


def test_claims_can_be_changed_without_running_the_arms_again():
    reproduce(paper)
    before = logged()
    changed = dataclasses.replace(paper, claims=(dataclasses.replace(paper.claims[0], margin=0.5),))
    assert [claim.verdict for claim in reproduce(changed).claims] == ["fails"]
    assert logged() == before


def test_what_an_arm_draws_depends_on_neither_order_nor_company():
    whole = reproduce(paper, arms=["all"], out=Path("whole"))
    alone = reproduce(paper, arms=["half"], seeds=1, seed_base=1, out=Path("alone"))
    assert alone.arms["half"].metrics[1]["draws"] == whole.arms["half"].metrics[1]["draws"]
    draws = [metrics["draws"] for arm in whole.arms.values() for metrics in arm.metrics.values()]
    assert len(set(draws)) == 9


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_reproduction_loses_only_the_arm_under_way(tmp_path: Path, interrupt: signal.Signals):
    whole = reproduce(paper, out=Path("whole"))
    Path("log").unlink()
    fake = FakeKen(tmp_path)
    victim = fake.start("reproduce", SLUG, FAKE_WAIT="method:1")
    assert victim.stdout is not None
    assert victim.stdout.readline() == "here\n"
    victim.send_signal(interrupt)
    _, err = victim.communicate(timeout=60)
    assert victim.returncode == (130 if interrupt == signal.SIGINT else -signal.SIGKILL)
    if interrupt == signal.SIGINT:
        assert err.splitlines()[-1] == (
            "ken: interrupted; finished arms are kept: give the same command again to go on"
        )
    assert not Path("results", f"{SLUG}.json").exists()
    before = len(logged())
    assert fake.run("reproduce", SLUG).returncode == 0
    assert logged()[before:] == ["bench:1", "method:1", "bench:2", "base:2", "method:2"]
    resumed = read_results(SLUG)
    assert resumed is not None
    assert str(numbers(resumed)) == str(numbers(whole))


def test_a_failing_arm_is_reported_the_others_go_on_and_the_next_call_tries_it_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAKE_FAIL", "method:1")
    ended: list[Progress] = []
    results = reproduce(paper, on_progress=ended.append)
    assert results.failed == 1
    assert results.arms["method"].errors == {1: "ZeroDivisionError: no questions"}
    assert [*results.arms["method"].metrics] == [0, 2]
    assert [claim.verdict for claim in results.claims] == ["inconclusive"] * 5
    assert results.claims[0].note == "arm method has no result on seed 1"
    assert (ended[-1].done, ended[-1].total) == (6, 6)
    (failure,) = Path("results", ".runs", SLUG).glob("*/1-method.error")
    assert "fake_paper.py" in failure.read_text(encoding="utf-8")

    monkeypatch.delenv("FAKE_FAIL")
    before = len(logged())
    assert reproduce(paper).failed == 0
    assert logged()[before:] == ["bench:1", "method:1"]
    assert not failure.exists()


def test_a_bench_that_fails_fails_the_arms_of_its_seed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAKE_FAIL", "bench:0")
    results = reproduce(paper, seeds=2)
    said = "preparing the bench failed: the base model is not built; run `ken lab build`"
    assert {name: arm.errors for name, arm in results.arms.items()} == {"base": {0: said}, "method": {0: said}}
    assert [*results.arms["base"].metrics] == [1]


def test_fresh_seeds_and_a_choice_of_arms_leave_the_committed_file_alone():
    reproduce(paper)
    committed = Path("results", f"{SLUG}.json").read_bytes()
    fresh = reproduce(paper, seeds=2, seed_base=7)
    assert fresh.seeds == (7, 8)
    reproduce(paper, arms=["base"])
    reproduce(paper, arms=["base"], seed_base=7)
    assert Path("results", f"{SLUG}.json").read_bytes() == committed
    names = {path.name for path in Path("results").iterdir()}
    assert names == {".runs", *(f"{SLUG}{mark}.json" for mark in ("", ".seeds-7", ".some-arms", ".seeds-7.some-arms"))}


def test_changed_settings_are_used_and_leave_the_committed_file_alone():
    reproduce(paper)
    committed = Path("results", f"{SLUG}.json").read_bytes()
    probe = reproduce(paper, seeds=1, settings={"gain": 0.2})
    assert probe.config == {"questions": 1000, "gain": 0.2}
    assert probe.arms["method"].mean["em"] == pytest.approx(0.5)
    assert Path("results", f"{SLUG}.json").read_bytes() == committed
    reproduce(paper, seeds=1, settings={"gain": 0.3})
    assert len(list(Path("results").glob(f"{SLUG}.set-*.json"))) == 2


def test_with_out_the_file_is_there_under_its_own_name():
    reproduce(paper, seeds=1, seed_base=3, arms=["base"], out=Path("mine"))
    assert not Path("results").exists()
    found = read_results(SLUG, Path("mine"))
    assert found is not None
    assert (found.seeds, [*found.arms]) == ((3,), ["base"])


def test_a_smoke_run_measures_everything_judges_nothing_and_writes_nothing():
    results = reproduce(paper, seeds=1, smoke=True)
    assert os.listdir() == ["log"]  # noqa: PTH208 (which the row itself wrote)
    assert results.config["questions"] == 5
    assert {claim.verdict for claim in results.claims} == {None}
    assert results.claims[0].value == pytest.approx(0.4)
    reproduce(paper, seeds=1, smoke=True, out=Path("smoke"))
    assert Path("smoke", f"{SLUG}.json").is_file()


@pytest.mark.parametrize("value", [np.float32(0.5), np.array(0.5), True, 1])
def test_a_metric_may_be_any_kind_of_number(value):
    one = dataclasses.replace(paper, arms=(Arm("a", "", lambda bench: {"em": value}),), claims=())
    assert reproduce(one, seeds=1).arms["a"].mean["em"] == float(value)


def test_a_curve_may_be_an_array():
    one = dataclasses.replace(paper, arms=(Arm("a", "", lambda bench: {"em": np.arange(3)}),), claims=())
    assert reproduce(one, seeds=1).arms["a"].metrics[0]["em"] == (0.0, 1.0, 2.0)


@pytest.mark.parametrize("value", ["high", None, {"em": 1}, ["a"]])
def test_what_is_no_number_is_the_arms_error(value):
    one = dataclasses.replace(paper, arms=(Arm("a", "", lambda bench: {"em": value}),), claims=())
    assert "a metric is a number or a list" in reproduce(one, seeds=1).arms["a"].errors[0]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"seeds": 0}, "seeds is 0"),
        ({"seed_base": -1}, "seed_base -1"),
        ({"arms": ["bsae"]}, "no arm 'bsae'; its arms are base, method, half"),
        ({"arms": []}, "no arm is named"),
        ({"settings": {"gian": 1}}, "there is no setting 'gian'; the settings are questions, gain"),
        ({"settings": {"gain": "high"}}, "gain cannot be 'high': input should be a valid number"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(arguments, problem):
    with pytest.raises(BadInput, match=problem):
        reproduce(paper, **arguments)
    assert not Path("log").exists()


def test_a_place_that_cannot_be_written_is_refused_before_anything_runs():
    Path("results").write_text("in the way", encoding="utf-8")
    with pytest.raises(BadInput, match=r"cannot be written .* choose another --out"):
        reproduce(paper)
    assert not Path("log").exists()


def test_an_edited_run_is_refused_and_not_believed():
    reproduce(paper, seeds=1)
    (path,) = Path("results", ".runs", SLUG).glob("*/0-method.json")
    path.write_text(path.read_text(encoding="utf-8").replace('"em"', '"em": {}, "'), encoding="utf-8")
    with pytest.raises(BadInput, match=r"0-method.json cannot be read or was edited; delete it"):
        reproduce(paper, seeds=1)


def test_results_say_when_they_come_from_several_states_of_the_code(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ken.papers.reproduce.code_digest", lambda: "first")
    assert reproduce(paper, seeds=1).versions["code"] == "first"
    monkeypatch.setattr("ken.papers.reproduce.code_digest", lambda: "second")
    assert reproduce(paper, seeds=2).versions["code"] == "first, second"


def test_an_interrupt_in_the_same_process_comes_through(monkeypatch: pytest.MonkeyPatch):
    def interrupted(bench: fake_paper.Bench) -> dict[str, float]:
        raise KeyboardInterrupt

    two = dataclasses.replace(paper, arms=(paper.arms[0], Arm("b", "", interrupted)), claims=())
    with pytest.raises(KeyboardInterrupt):
        reproduce(two, seeds=1)
    assert len([*Path("results", ".runs", SLUG).glob("*/*.json")]) == 1


def test_make_claims_runs_every_paper_that_has_a_row():
    makefile = Path(fake_paper.__file__).parents[1]
    planned = subprocess.run(["make", "-n", "claims"], cwd=makefile, capture_output=True, text=True, check=True).stdout
    assert "ken reproduce $slug" in planned
