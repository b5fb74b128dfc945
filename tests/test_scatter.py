"""Work on a Ray cluster of two nodes: the same results as without one, also when a worker or a node dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from capitals import DOCUMENTS, QUESTIONS, build_index, command, environment, run_ken, serve, write_questions
from fake_paper import SLUG, FakeKen, paper
from faulty_server import FaultyServer, Hang, Status

import ken
from ken.auditing.log import read_log
from ken.auditing.run import GIVE_UP_AFTER
from ken.core import BadInput, Question
from ken.core.scatter import RETRIES, Lost, scatter
from ken.models.scripted import ScriptedModel
from ken.papers.reproduce import reproduce

ray = pytest.importorskip("ray", reason="needs the extra ray")
Cluster = pytest.importorskip("ray.cluster_utils").Cluster

OUT = ("spread", "whole")

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes with a core each. Whoever first runs an arm on the second one waits there to be killed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where the workers find the row
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.second = made.add_node(num_cpus=1, env_vars={"FAKE_HOLD": str(tmp_path / "hold")})
    ray.init(address=made.address, log_to_driver=False)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def strike(hold: Path, blow: Callable[[int], None]) -> threading.Thread:
    """Strike once a process waits."""

    def wait() -> None:
        while not hold.exists():
            time.sleep(0.05)
        blow(int(hold.read_text(encoding="utf-8")))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("victim", ["worker", "node"])
def test_who_dies_is_replaced_and_the_results_are_the_same(cluster, tmp_path, victim):
    hold = tmp_path / "hold"

    def blow(pid: int) -> None:
        if victim == "worker":
            os.kill(pid, signal.SIGKILL)
        else:
            cluster.remove_node(cluster.second, allow_graceful=False)

    thread = strike(hold, blow)
    spread = reproduce(paper, arms=["all"], out=tmp_path / "spread", ray=cluster.address)
    thread.join(timeout=10)
    assert hold.exists()
    whole = reproduce(paper, arms=["all"], out=tmp_path / "whole")
    assert spread.failed == 0
    assert str(spread.claims) == str(whole.claims)
    assert {name: str(arm.metrics) for name, arm in spread.arms.items()} == {
        name: str(arm.metrics) for name, arm in whole.arms.items()
    }
    pids = {line.split()[1] for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()}
    assert len(pids - {str(os.getpid())}) >= 2  # it was not all one process


def test_what_kills_every_worker_is_given_up_and_the_rest_goes_on(cluster):
    def square(x: int) -> int:
        if x == 3:
            os._exit(1)
        return x * x

    ended = list(scatter(square, range(6), address=cluster.address))
    assert sorted(x for x in ended if not isinstance(x, Lost)) == [0, 1, 4, 16, 25]
    (lost,) = (x for x in ended if isinstance(x, Lost))
    assert lost.item == 3
    assert RETRIES == 3


def test_what_a_task_raises_is_raised_here(cluster):
    def fail(x: int) -> int:
        raise BadInput(f"{x} is bad")

    with pytest.raises(BadInput, match="7 is bad"):
        list(scatter(fail, [7], address=cluster.address))


def test_a_machine_that_cannot_load_the_work_is_told_from_work_that_fails(cluster, tmp_path, monkeypatch):
    here_only = tmp_path / "here-only"
    here_only.mkdir()
    (here_only / "elsewhere.py").write_text("def double(x):\n    return 2 * x\n", encoding="utf-8")
    monkeypatch.syspath_prepend(here_only)
    double = import_module("elsewhere").double
    with pytest.raises(BadInput, match=r"has not the same Ken as this one \(ModuleNotFoundError: .*elsewhere"):
        list(scatter(double, [1], address=cluster.address))


def test_more_items_than_fit_at_once_all_come_back_and_are_drawn_as_needed(cluster):
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for i in range(300):
            drawn.append(i)
            yield i

    results = scatter(lambda x: x + 1, items(), address=cluster.address)
    next(results)
    assert len(drawn) < 100
    assert len(list(results)) == 299


def test_reproduce_on_a_cluster_of_its_own(tmp_path):
    fake = FakeKen(tmp_path)
    done = fake.run("reproduce", SLUG, "--ray", "local", "--out", "spread")
    assert done.returncode == 0, done.stderr
    assert fake.run("reproduce", SLUG, "--out", "whole").returncode == 0
    before = len(fake.logged())
    fake.run("reproduce", SLUG, "--ray", "local", "--out", "spread")  # nothing is left: no cluster, no arm
    assert len(fake.logged()) == before
    spread, whole = (json.loads((tmp_path / out / f"{SLUG}.json").read_text(encoding="utf-8")) for out in OUT)
    assert spread["claims"] == whole["claims"]
    assert [arm["metrics"] for arm in spread["arms"].values()] == [arm["metrics"] for arm in whole["arms"].values()]


def attempts(out: Path) -> dict[object, object]:
    """What was attempted, asked, found and answered; not how long it took."""
    return {key: (t.steps, t.error, t.usage.search_calls) for key, t in read_log(out / "trajectories.jsonl").items()}


def test_an_audit_on_the_cluster_is_the_audit(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("ken.auditing.cluster.SHARD", 5)  # of 24 attempts
    build_index(tmp_path / "index")
    done: list[int] = []
    with FaultyServer(serve) as server:
        common = {"model": "openai/m", "base_url": server.base_url, "index": "index", "samples": 2}
        alone = ken.audit(QUESTIONS, out="alone", **common)
        spread = ken.audit(
            QUESTIONS, out="spread", ray=cluster.address, on_progress=lambda p: done.append(p.done), **common
        )
        asked = len(server.requests)
        ken.audit(QUESTIONS, out="spread", ray=cluster.address, **common)  # nothing is left to ask
        assert len(server.requests) == asked
    assert attempts(tmp_path / "spread") == attempts(tmp_path / "alone")
    assert done == list(range(len(done)))
    assert [(s.em, s.boundaries) for s in spread.strategies] == [(s.em, s.boundaries) for s in alone.strategies]


def workers_of(process: int) -> list[int]:
    """The Ray workers, busy with a task, among the descendants of a process."""
    parents, busy = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended by now
            status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
            parents[int(folder.name)] = int(status["PPid"])
            if (folder / "cmdline").read_bytes().startswith(b"ray::_attempt"):
                busy.append(int(folder.name))

    def descends(pid: int) -> bool:
        return pid == process or (pid in parents and descends(parents[pid]))

    return [pid for pid in busy if descends(pid)]


def test_a_worker_that_dies_in_an_audit_is_replaced_and_the_results_are_the_same(tmp_path):
    """`ken audit --ray local` as a user types it: the worker dies while it waits for the model."""
    write_questions(tmp_path / "q.jsonl")
    build_index(tmp_path / "index")
    ken_audit = ["audit", "--questions", "q.jsonl", "--index", "index", "--model", "openai/m", "--samples", "2"]
    asked, struck = threading.Event(), threading.Event()

    def held(number: int, payload: dict[str, Any]) -> Any:
        if asked.is_set() and not struck.is_set():
            return Hang()  # who waits for this reply is struck; its shard is asked again
        if number == 10:
            asked.set()
            return Hang()
        return serve(number, payload)

    with FaultyServer(held) as server:
        process = subprocess.Popen(
            command(*ken_audit, "--base-url", server.base_url, "--ray", "local", "--out", "spread"),
            cwd=tmp_path,
            env=environment(OMP_NUM_THREADS="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert asked.wait(timeout=120)
            victims = workers_of(process.pid)
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
            struck.set()
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
        assert len(victims) == 1, "24 attempts are one shard"
        assert process.returncode == 0, err
        before = len(server.requests)
        alone = run_ken(*ken_audit, "--base-url", server.base_url, "--out", "alone", cwd=tmp_path)
        assert alone.returncode == 0, alone.stderr
        once = len(server.requests) - before
        assert before > once, "what the dead worker had done is done again"
    assert attempts(tmp_path / "spread") == attempts(tmp_path / "alone")
    table = out[out.index("openai/m:") :]  # after Ray's own words about the dead worker
    assert table.replace("spread", "alone") == alone.stdout


def test_an_audit_on_the_cluster_stops_when_nobody_answers(cluster, tmp_path):
    many = [Question(id=f"q{i}", text=f"Question {i}?", answers=("Oslo",)) for i in range(300)]
    with FaultyServer(lambda n, payload: Status(404)) as server:
        report = ken.audit(
            many,
            model="openai/m",
            base_url=server.base_url,
            strategies="direct",
            samples=0,
            out="a",
            ray=cluster.address,
        )
    assert (report.failed, report.unasked) == (GIVE_UP_AFTER, 300 - GIVE_UP_AFTER)


def test_what_cannot_travel_to_a_cluster_is_refused(tmp_path):
    index = ken.Index.build(DOCUMENTS, tmp_path / "index")
    for options in ({"model": "openai/m", "index": index}, {"model": ScriptedModel(lambda prompt: "")}):
        with pytest.raises(BadInput, match="the workers load the model and open the index; name both"):
            ken.audit(QUESTIONS, out=tmp_path / "a", strategies="direct", ray="local", **options)
    assert not (tmp_path / "a").exists()


def test_an_interrupt_leaves_no_process_behind(tmp_path):
    fake = FakeKen(tmp_path)
    victim = fake.start("reproduce", SLUG, "--ray", "local", FAKE_HOLD=str(tmp_path / "hold"))
    thread = strike(tmp_path / "hold", lambda pid: victim.send_signal(signal.SIGINT))
    _, err = victim.communicate(timeout=120)
    thread.join(timeout=10)
    assert victim.returncode == 130
    assert err.splitlines()[-1].startswith("ken: interrupted; finished arms are kept")
    held = (tmp_path / "hold").read_text(encoding="utf-8")
    deadline = time.monotonic() + 30
    while Path("/proc", held).exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path("/proc", held).exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_a_cluster_that_does_not_answer_is_named(tmp_path, address):
    done = FakeKen(tmp_path).run("reproduce", SLUG, "--ray", address)
    assert done.returncode == 2
    assert f"no Ray cluster answers at '{address}'" in done.stderr


def test_without_ray_one_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr("ken.core.scatter.find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"pip install 'ken\[ray\]'"):
        list(scatter(abs, [1], address="local"))
