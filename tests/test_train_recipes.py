"""`ken train`: a paper's recipe on a model and questions of one's own, and what is said when it cannot work."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
import types
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="needs the extra `train`")

import ken
from ken.agents import SearchLoop, ToolLoop
from ken.core import Answer, BadInput, Question, SourceError, Trajectory, Unsupported
from ken.lab import FactWorld, render
from ken.models import load_model
from ken.models.local import LocalModel
from ken.models.scripted import ScriptedModel
from ken.papers.recipe import Trainee
from ken.papers.recipes import RECIPES, recipe_of
from ken.papers.train import Listener, Progress, read_run, resume, train_on
from ken.sources import Sources
from ken.training.labels.solve_rate import SolveRates
from ken.training.rollouts import Group, Task
from ken.training.trackers import tracker
from ken.training.train import save_policy
from tests.rewarded import WRONG, YES, closed_book, deciding, group, question

MODEL = "lab/factworld"
SMALL = {"steps": 2, "questions_per_step": 4, "group_size": 2}
TWO_STAGES = {**SMALL, "samples": 2, "decide_steps": 3, "decide_questions": 4, "verdicts": 2, "save_every": 1}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FactWorld as a user would have it: an index and files of questions."""
    folder = tmp_path_factory.mktemp("world")
    made = FactWorld()
    ken.Index.build(render.documents(made), folder / "index")
    for split in ("train", "test"):
        lines = [
            json.dumps({"id": q.id, "question": q.text, "golden_answers": q.answers})
            for q in render.questions(made, split)[:40]
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def run_ken(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "ken", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def history(out: Path) -> list[dict[str, float]]:
    """The metrics of a stage, without times."""
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in e.items() if not k.startswith(("second", "step_time", "epoch"))} for e in entries]


# --- from questions to a model that can be asked
# -------------------------------------------------------------------------------------------------------------------


def test_what_was_trained_is_a_model_that_can_be_audited(world: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    notes: list[str] = []
    trained = train_on(
        "adasearch",
        model=MODEL,
        questions=world / "train.jsonl",
        index=world / "index",
        out=tmp_path / "run",
        listener=Listener(seen.append, notes.append),
        **TWO_STAGES,
    )
    assert trained.model == tmp_path / "run" / "model"
    assert [p.stage for p in seen if p.stage != "labels"] == ["solve"] * 2 + ["decide"] * 3
    assert [p.step for p in seen if p.stage == "labels"][-1] == 40
    assert len(history(tmp_path / "run" / "solve")) == 2
    assert len(history(tmp_path / "run")) == 3
    rates = [
        json.loads(line)["pass_rate"] for line in (tmp_path / "run" / "solve-rates.jsonl").read_text().splitlines()
    ]
    assert set(rates) <= {0.0, 0.5, 1.0}
    assert any("answered alone 0 to 2 times of 2:" in note for note in notes)

    report = ken.audit(
        world / "test.jsonl", model=f"hf/{trained.model}", index=world / "index", out=tmp_path / "audit",
        samples=2, top_k=1, sampling=ken.Sampling(max_tokens=16),
    )  # fmt: skip
    assert not report.failures
    by_name = {s.strategy: s for s in report.strategies}
    assert by_name["rag"].em > by_name["direct"].em, "it still reads: the model and its tokenizer are whole"


@pytest.mark.parametrize(
    ("paper", "options"),
    [
        ("search-r1", SMALL),
        ("search-r1", {"algo": "ppo", "steps": 2, "questions_per_step": 8}),
        ("adasearch", {**SMALL, "e2e": True}),
        ("adasearch", {**TWO_STAGES, "steps": 0}),
        ("ikea", {**SMALL, "samples": 4}),
        ("42", {**SMALL, "samples": 4, "ratio": 0.75}),
        ("tapo", {**SMALL, "max_refills": 1}),
    ],
    ids=str,
)
def test_every_recipe_trains(world: Path, tmp_path: Path, paper: str, options: Mapping[str, Any]) -> None:
    trained = train_on(
        paper, model=MODEL, questions=world / "train.jsonl", index=world / "index", out=tmp_path / "run", **options
    )
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert read_run(tmp_path / "run").options.items() >= options.items()
    (log,) = trained.logs.values()
    assert len(log.history) == (options["steps"] or options["decide_steps"])


def known(rates: Mapping[str, float]) -> Trainee:
    questions = [Question(id=name, text=name, answers=("x",)) for name in rates]
    return Trainee(None, questions, lambda samples, matcher: SolveRates(dict(rates), samples, {}, asked=0))  # type: ignore[arg-type]


def works(paper: str, rates: Mapping[str, float], *, lab: bool = False, **options: Any) -> list[Any]:
    recipe = RECIPES[paper]
    return [stage.work(known(rates)) for stage in recipe.stages(recipe.chosen(options, lab=lab))]


RATES = {"a": 0.0, "b": 0.25, "c": 0.5, "d": 1.0}


def test_search_r1_is_the_paper_at_full_size() -> None:
    (work,) = works("search-r1", RATES)
    c = work.config
    assert (c.units, c.group_size, c.minibatches, c.lr, c.kl, c.advantage) == (512, 5, 2, 1e-6, 1e-3, "group")
    assert (c.sampling.temperature, c.sampling.max_tokens, c.mask_observations) == (1.0, 500, True)
    assert (c.loss, c.entropy_bonus) == ("grpo", 1e-3)
    assert {task.strategy.max_turns for task in work.tasks} == {4}
    (shaped,) = works("search-r1", RATES, reward="structured")
    wrong = Trajectory(
        question=Question(id="q", text="?", answers=("a",)), strategy="search", steps=(Answer(text="b"),)
    )
    group = Group(Task(wrong.question, SearchLoop()), (wrong,))
    scores = [[list(row) for row in of.reward([group])] for of in (work, shaped)]
    assert scores == [[[0.0]], [[0.1]]], "v0.3 gives a tenth for an answer out of form"
    (ppo,) = works("search-r1", RATES, algo="ppo")
    c = ppo.config
    assert (c.group_size, c.advantage, c.kl, c.kl_in_reward, c.critic_lr) == (1, "gae", 0.0, 1e-3, 1e-5)
    assert (c.gamma, c.lam, c.loss, c.entropy_bonus) == (1.0, 1.0, "bnpo", 1e-3)


def test_adasearch_solves_in_both_modes_and_then_decides_by_its_own_solve_rate() -> None:
    solve, decide = works("adasearch", RATES, threshold=0.5, decide_kl=0.2)
    assert {tuple(task.kind for task in unit) for unit in solve.tasks} == {("inside", "search")}
    assert {tuple(task.kind for task in unit) for unit in decide.tasks} == {("decide",)}
    assert (decide.config.kl, decide.config.group_size, decide.config.units) == (0.2, 5, 512)
    many = {**RATES, **{f"hard{i}": 0.1 for i in range(9)}}
    (even,) = works("adasearch", many, steps=0, balanced=True)
    sides = [many[unit[0].question.id] >= 0.5 for unit in even.tasks]
    assert (sides.count(True), sides.count(False)) == (2, 3), "as many of either side as there are, or one more"
    (one,) = works("adasearch", RATES, e2e=True)
    assert {tuple(task.kind for task in unit) for unit in one.tasks} == {("inside", "search", "decide")}


def test_adasearch_in_one_stage_tells_a_person_when_its_labels_stay_equal() -> None:
    recipe, notes = recipe_of("adasearch"), []
    (stage,) = recipe.stages(recipe.chosen({"e2e": True}))
    work = stage.work(replace(known(RATES), on_note=notes.append))
    groups = [g for i in range(10) for g in (
        group(closed_book(WRONG, asked=question(f"q{i}")), kind="inside"),
        group(deciding(YES, asked=question(f"q{i}")), kind="decide"),
    )]  # fmt: skip
    for _ in range(12):
        work.reward(groups)
    (note,) = notes
    assert note.startswith(
        "WARNING: the verdicts cannot be learnt: the last 100 labels, of 10 batches, are 'no' at tau"
    )


def test_tapo_is_dapo_filtered_by_right_answers_with_both_tools() -> None:
    (work,) = works("tapo", RATES)
    c = work.config
    assert (c.units, c.group_size, c.updates, c.lr, c.warmup_steps, c.kl) == (64, 4, 4, 1e-6, 10, 0.0)
    assert (c.loss, c.clip_low, c.clip_high, c.dual_clip) == ("dapo", 0.2, 0.28, 10.0)
    assert (c.dynamic_sampling, c.max_refills, c.weight_decay, c.grad_clip) == (True, 9, 0.1, 1.0)
    assert recipe_of("tapo").chosen({}).model_dump()["top_k"] == 1
    assert {task.strategy.enabled for task in work.tasks} == {("search", "code")}
    (other,) = works("tapo", RATES, clip_low=0.1, clip_high=0.3, dual_clip=5.0, weight_decay=0.0, max_refills=2)
    c = other.config
    assert (c.clip_low, c.clip_high, c.dual_clip, c.weight_decay, c.max_refills) == (0.1, 0.3, 5.0, 0.0, 2)
    (alone,) = works("tapo", RATES, code=False)
    assert {task.strategy.enabled for task in alone.tasks} == {("search",)}
    model = ScriptedModel(lambda prompt: "<think> " + "hm " * 3000 + "</think><answer> 7 </answer>")
    question = Question(id="q", text="?", answers=("7",))
    wordy = asyncio.run(ToolLoop().run(question, model, Sources(), sampling=ken.Sampling(max_tokens=4000)))
    assert work.filter_by(wordy) == 1.0, "the filter looks at the answer alone"
    ((reward,),) = work.reward([Group(work.tasks[0], (wordy,))])
    assert reward < 0, "and the reward at the length too"


def test_ikea_trains_on_as_many_questions_that_it_knows_as_not() -> None:
    rates = {f"hard{i}": 0.0 for i in range(9)} | {f"easy{i}": 1 / 16 for i in range(3)}
    (work,) = works("ikea", rates)
    chosen = [task.question.id[:4] for task in work.tasks]
    assert (chosen.count("easy"), chosen.count("hard")) == (3, 3)
    assert (work.config.group_size, work.config.sampling.greedy_thoughts) == (16, False)
    assert work.config.entropy_bonus == 1e-3
    with pytest.raises(BadInput, match="no boundary to learn"):
        works("ikea", rates, threshold=0.5)


def test_a_model_of_the_lab_has_defaults_of_its_own_and_what_is_given_wins() -> None:
    recipe = recipe_of("Search-R1")
    assert recipe.chosen({}, lab=True).lr == 3e-4
    assert recipe.chosen({"lr": 1e-3}, lab=True).lr == 1e-3
    assert recipe.chosen({}).lr == 1e-6


# --- interruptions
# -------------------------------------------------------------------------------------------------------------------


def wait_for_steps(path: Path, steps: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while not path.is_file() or path.read_text().count("\n") < steps:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("stage", ["solve", "decide"])
def test_an_interrupted_training_goes_on_in_the_stage_where_it_was(
    world: Path, tmp_path: Path, how: int, stage: str
) -> None:
    options = {**TWO_STAGES, "steps": 6, "decide_steps": 8}
    whole = train_on(
        "adasearch", model=MODEL, questions=world / "train.jsonl", index=world / "index", out=tmp_path / "a", **options
    )
    command = [sys.executable, "-W", "ignore", "-m", "ken", "train", "adasearch", "--model", MODEL, "--out", "b"]
    command += ["--questions", str(world / "train.jsonl"), "--index", str(world / "index")]
    command += [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        place = tmp_path / "b" / ("solve" if stage == "solve" else "")
        wait_for_steps(place / "metrics.jsonl", 2, process)
        process.send_signal(how)
        _, said = process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -9)
    if how == signal.SIGINT:
        assert "ken: interrupted; a checkpoint is saved, go on with: ken train --resume b\n" in said
    assert not (tmp_path / "b" / "model").exists()
    solved = tmp_path / "b" / "solve" / "model" / "model.safetensors"
    before = solved.stat().st_mtime_ns if stage == "decide" else 0

    done = run_ken("train", "--resume", tmp_path / "b", cwd=world)
    assert done.returncode == 0, done.stderr
    assert stage == "solve" or solved.stat().st_mtime_ns == before, "a stage that was done is not done again"
    for name in ("solve", ""):
        for one, other in zip(history(whole.out / name), history(tmp_path / "b" / name), strict=True):
            assert one == pytest.approx(other, rel=1e-3, abs=1e-4)


def test_the_same_command_again_goes_on_and_another_is_refused(world: Path, tmp_path: Path) -> None:
    def again(**changes: Any) -> Any:
        options = {**SMALL, **changes}
        return train_on(
            "search-r1", model=MODEL, questions=world / "train.jsonl", index=world / "index", out=tmp_path / "run",
            **options,
        )  # fmt: skip

    first = again()
    assert resume(tmp_path / "run").model == first.model
    with pytest.raises(BadInput, match=r"holds another training \(lr was 0.0003 and is 0.1\); choose another --out"):
        again(lr=0.1)
    questions = [Question(id="q", text="What is the sponsor of Pugru?", answers=("x",))]
    with pytest.raises(BadInput, match="the questions or their answers are others"):
        train_on("search-r1", model=MODEL, questions=questions, index=world / "index", out=tmp_path / "run", **SMALL)


# --- what cannot work
# -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paper", "changes", "said"),
    [
        ("adasearch", {"samples": 0}, "samples cannot be 0"),
        ("adasearch", {"threshold": 1.5}, "threshold cannot be 1.5"),
        ("adasearch", {"threshold": -0.1}, "threshold cannot be -0.1"),
        ("adasearch", {"verdicts": 1}, "verdicts cannot be 1"),
        ("adasearch", {"e2e": True, "steps": 0}, "give at least one step"),
        ("ikea", {"ratio": 2}, "ratio cannot be 2"),
        ("ikea", {"group_size": 1}, "GRPO compares the rollouts of a group, so it needs at least 2"),
        ("search-r1", {"group_size": 1}, "GRPO compares the rollouts of a group, so it needs at least 2"),
        ("search-r1", {"lr": float("nan")}, "lr cannot be nan"),
        ("search-r1", {"samples": 4}, "this paper has no option samples; its options are algo, batch_size"),
        ("search-r1", {"top_k": 0}, "top_k cannot be 0"),
        (
            "think-on-graph",
            {},
            "no recipe for a model of your own yet; those that have one: search-r1, adasearch, ikea",
        ),
        ("serch-r1", {}, "did you mean search-r1"),
        ("search-r1", {"model": "openai/gpt"}, "'openai/gpt' cannot be trained; give hf/NAME_OR_PATH"),
        ("search-r1", {"model": "lab/atlantis"}, "there is no lab model 'atlantis'"),
        ("search-r1", {"index": "nowhere"}, "there is no index at"),
        ("search-r1", {"index": "http://127.0.0.1:9"}, "did not answer after 4 attempts"),
        ("search-r1", {"questions": [Question(id="q", text="Why?")]}, "1 of 1 questions have no accepted answers"),
        (
            "tapo",
            {"questions": [Question(id="q", text="?", answers=("7",), meta={"source": "trivia"})]},
            "question 'q' cannot be scored: there is no scorer for questions from 'trivia'; there are default, gsm8k",
        ),
        (
            "tapo",
            {"questions": [Question(id="q", text="?", answers=("many",), meta={"source": "calculator"})]},
            "question 'q' cannot be scored: the gold answer 'many' is not a number",
        ),
        ("tapo", {"buffer": 2048, "length": 1024}, "buffer is 2048, but a response has 1024 tokens"),
        ("tapo", {"dual_clip": 1.0}, "dual_clip cannot be 1.0"),
        ("tapo", {"search": False}, "tapo without --search does not search, so that an index is of no use to it"),
        ("search-r1", {"questions": []}, "there are no questions to train on"),
        ("search-r1", {"log_to": "trackio"}, "trackio is not installed; install it with: pip install trackio"),
    ],
    ids=str,
)
def test_bad_input_is_refused_in_one_sentence_and_leaves_nothing(  # noqa: PLR0917
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paper: str, changes: Mapping[str, Any], said: str
) -> None:
    monkeypatch.setattr("ken.training.trackers.find_spec", lambda name: None)
    arguments = {"model": MODEL, "questions": world / "train.jsonl", "index": world / "index", **SMALL, **changes}
    with pytest.raises((BadInput, SourceError, Unsupported)) as caught:
        train_on(paper, out=tmp_path / "run", **arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_model_that_writes_no_tags_is_refused_before_anything_is_done(world: Path, tmp_path: Path) -> None:
    import torch

    model = load_model(MODEL)
    assert isinstance(model, LocalModel)
    torch.manual_seed(0)
    for parameter in model.model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    save_policy(model, tmp_path / "untrained")
    said = r"untrained wrote no tag that is understood in 16 rollouts of the strategy 'search' \(it wrote: .*\), so no"
    with pytest.raises(BadInput, match=said):
        train_on(
            "search-r1", model=f"hf/{tmp_path / 'untrained'}", questions=world / "train.jsonl",
            index=world / "index", out=tmp_path / "run",
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_folder_of_somebody_else_is_left_alone(world: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match="is not empty and holds no training"):
        train_on("ikea", model=MODEL, questions=world / "train.jsonl", index=world / "index", out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_labels_that_are_all_equal_are_told(world: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    train_on(
        "adasearch", model=MODEL, questions=world / "train.jsonl", index=world / "index", out=tmp_path / "run",
        listener=Listener(on_note=notes.append), **{**TWO_STAGES, "steps": 0, "threshold": 0.0},
    )  # fmt: skip
    assert any("the decision stage is degenerate: all 40 labels are 'yes'" in note for note in notes)


# --- the command
# -------------------------------------------------------------------------------------------------------------------


def test_the_command_trains_and_says_what_to_do_with_the_model(world: Path, tmp_path: Path) -> None:
    (tmp_path / "ken.toml").write_text(f'index = "{world / "index"}"\nsamples = 5\ntop_k = 1\n')
    common = ("--model", MODEL, "--questions", world / "train.jsonl", "--out", "run")
    done = run_ken("train", "search-r1", *common, "--steps", 1, "--questions-per-step", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "search: 1 steps, reward" in done.stdout
    assert "run/model  the model" in done.stdout
    assert "Try: ken audit --model hf/run/model" in done.stdout
    assert json.loads((tmp_path / "run" / "run.json").read_text())["options"]["steps"] == 1

    asked = run_ken("ask", "What is the sponsor of Pugru?", "--model", "hf/run/model", "--max-tokens", 16, cwd=tmp_path)
    assert asked.returncode == 0, asked.stderr
    assert "answer" in asked.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "a training needs PAPER, --model SPEC, --questions FILE, --out RUN (or --resume RUN alone)"),
        (["--resume", "nowhere"], "nowhere holds no training (there is no run.json)"),
        (["ikea", "--resume", "x"], "a resumed run keeps its settings, so --paper cannot be given with --resume"),
        (["--resume", "x", "--steps", "3"], "so --steps cannot be given with --resume"),
        (["ikea", "--model", "m", "--questions", "q", "--out", "o"], "a training searches; name an index"),
    ],
    ids=str,
)
def test_a_wrong_command_is_one_line_with_status_2(arguments: Sequence[str], said: str, tmp_path: Path) -> None:
    done = run_ken("train", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_alarms_and_notes_are_printed_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    from ken.cli.train_progress import listening
    from ken.training.monitors import DEFAULTS, Alarm

    with listening() as listener:
        listener.on_alarm(Alarm(DEFAULTS[0], 12, 0.001))
        listener.on_note("a [bold]model[/bold] \x1b[31msays")
    said = capsys.readouterr().err
    assert "ALARM step 12: entropy = 0.001, below 0.01" in said
    assert "a [bold]model[/bold] says" in said


# --- dashboards
# -------------------------------------------------------------------------------------------------------------------


def test_trackio_is_told_of_every_step_and_goes_on_in_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, Any]] = []
    fake = types.ModuleType("trackio")
    fake.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    fake.init = lambda **options: calls.append(("init", options))  # type: ignore[attr-defined]
    fake.log = lambda metrics, step: calls.append(("log", (step, metrics)))  # type: ignore[attr-defined]
    fake.finish = lambda: [calls.append(("finish", None)), print("uploading")]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", fake)
    with tracker("trackio", folder=tmp_path, run="ikea/run", settings={"lr": 1}) as log:
        log(1, {"reward": 0.5})
    init = {"project": "ken", "name": "ikea/run", "config": {"lr": 1}, "resume": "allow"}
    assert calls == [("init", init), ("log", (1, {"reward": 0.5})), ("finish", None)]
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "uploading\n"), "what it says is no part of the command's output"


def test_tensorboard_has_the_curve(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracker("tensorboard", folder=tmp_path, run="r", settings={}) as log:
        log(1, {"reward": 0.25})
        log(2, {"reward": 0.5})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("reward")] == [(1, 0.25), (2, 0.5)]
