"""Several processes train one model as one process would: `accelerate launch`, on CPUs with gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="needs the extra `train`")

import torch

from ken.core import BadInput
from ken.models.local import LocalModel
from ken.training.rl_config import RLConfig
from ken.training.rollouts import Task, each
from ken.training.train import train
from tests.bandits import QUESTIONS, Choose, bandit_model, probability_of_right, right_word, settings

ROOT = Path(__file__).parents[1]
TASKS = [Task(question, Choose()) for question in QUESTIONS]

RUN = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from accelerate import PartialState
from ken.core import KenError
from ken.models.local import LocalModel
from ken.training.rl_config import RLConfig
from ken.training.rollouts import each
from ken.training.train import train
from tests.bandits import right_word, settings
from tests.test_distribution import TASKS
folder, changes = Path(sys.argv[1]), eval(sys.argv[2])
process = PartialState(cpu=True)
assert process.num_processes == 2
def on_step(step, statistics):
    if process.is_main_process:
        print("step", step, flush=True)
try:
    train(LocalModel(folder / "model", device="cpu", control_tokens=True), TASKS, each(right_word),
          RLConfig(**settings(**changes)), out=folder / "run", resume=True, monitors=(), on_step=on_step)
except KenError as error:
    print(f"{type(error).__name__}: {error}", flush=True)
"""


def launch(folder: Path, changes: dict[str, Any], script: str = RUN) -> subprocess.Popen[str]:
    """Two processes on this machine. accelerate has no word for it but `--multi_gpu`, which ACCELERATE_USE_CPU turns
    into processes on the CPU."""
    (folder / "run.py").write_text(script)
    command = [sys.executable, "-W", "ignore", "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", "0", str(folder / "run.py"), str(folder), repr(changes)]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}",
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finished(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    return out


def history(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def alone_and_together(folder: Path, changes: dict[str, Any]) -> tuple[Path, Path]:
    """The folders of the same run by one process and by two."""
    for name in ("one", "two"):
        bandit_model(folder / name / "model")
    model = LocalModel(folder / "one" / "model", device="cpu", control_tokens=True)
    train(model, TASKS, each(right_word), RLConfig(**settings(**changes)), out=folder / "one" / "run", monitors=())
    finished(launch(folder / "two", changes))
    return folder / "one" / "run", folder / "two" / "run"


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"kl": 1e-3}, {"advantage": "batch"}, {"advantage": "gae"}], ids=str)
def test_two_processes_learn_what_one_does(tmp_path: Path, changes: dict[str, Any]) -> None:
    runs = alone_and_together(tmp_path, {"steps": 8, **changes})
    one, two = map(history, runs)
    assert [e["step"] for e in two] == list(range(1, 9)), "every step is logged once, not by every process"
    for mine, theirs in zip(one, two, strict=True):
        for statistic in ("reward", "reward_std", "zero_variance", "entropy"):
            assert mine[statistic] == pytest.approx(theirs[statistic], rel=1e-2, abs=5e-3), (statistic, mine["step"])
    models = [LocalModel(run / "model", device="cpu").model for run in runs]
    for mine, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-2, atol=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"advantage": "batch", "minibatches": 2}, {"loss": "dapo", "dynamic_sampling": True}], ids=str
)
def test_two_processes_find_the_optimum_where_their_batches_differ(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A minibatch is made of other rollouts, and every process refills its own share."""
    runs = alone_and_together(tmp_path, {"steps": 40, **changes})
    assert history(runs[0])[0]["reward"] == history(runs[1])[0]["reward"], "the first step is the same"
    for run in runs:
        assert probability_of_right(LocalModel(run / "model", device="cpu", control_tokens=True)) > 0.85


@pytest.mark.slow
def test_two_processes_stop_together_when_asked_and_go_on(tmp_path: Path) -> None:
    bandit_model(tmp_path / "model")
    changes = {"steps": 400}
    process = launch(tmp_path, changes)
    assert process.stdout is not None
    while process.stdout.readline() != "step 3\n":
        assert process.poll() is None, process.stderr and process.stderr.read()
    os.killpg(process.pid, signal.SIGTERM)  # as a cluster does before it takes the machine away
    process.communicate(timeout=60)
    (kept,) = (tmp_path / "run" / "checkpoints").glob("checkpoint-*")
    assert (kept / "ken-state.json").is_file()
    assert not (tmp_path / "run" / "model").exists()
    done = int(kept.name.rpartition("-")[2])
    assert 3 <= done < 400

    finished(launch(tmp_path, {"steps": done + 2}))
    assert [e["step"] for e in history(tmp_path / "run")] == list(range(1, done + 3))


@pytest.mark.slow
def test_units_that_cannot_be_shared_evenly_are_refused(tmp_path: Path) -> None:
    bandit_model(tmp_path / "model")
    said = finished(launch(tmp_path, {"units": 3}))
    assert "BadInput: 3 units a step cannot be shared out evenly among 2 processes; choose a multiple" in said


CHECKED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from accelerate import PartialState
from ken.core import SourceError
from ken.models.local import LocalModel
from ken.papers.work import Reinforcement, Workshop
from ken.sources import Sources
from ken.training.rl_config import RLConfig
from ken.training.rollouts import each
from tests.bandits import right_word, settings
from tests.test_distribution import TASKS
folder, changes = Path(sys.argv[1]), eval(sys.argv[2])
process = PartialState(cpu=True)
steps = []
def check():
    steps.append(1)
    if len(steps) == 2 and not process.is_main_process:
        raise SourceError("the tool 'code' was down")
work = Reinforcement(TASKS, each(right_word), RLConfig(**settings(**changes)), check=check)
try:
    work.run(Workshop(LocalModel(folder / "model", device="cpu", control_tokens=True), Sources(), folder / "run"))
except SourceError as error:
    print(f"process {process.process_index}: {error}", flush=True)
"""


@pytest.mark.slow
def test_a_tool_that_is_down_in_one_process_stops_them_all_with_a_checkpoint(tmp_path: Path) -> None:
    bandit_model(tmp_path / "model")
    said = finished(launch(tmp_path, {"steps": 4}, CHECKED))
    assert "process 1: the tool 'code' was down (step 2 is saved in" in said
    assert "process 0: a tool or a judge is down in another process, which says which" in said
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-2" / "ken-state.json").is_file()


SHARDED = """
import sys, torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from ken.models.local import LocalModel
from ken.training.sharding import unsharded
torch.set_num_threads(1)
dist.init_process_group("gloo")
model = LocalModel(sys.argv[1], device="cpu").model
ids = torch.arange(8)[None]
with torch.no_grad():
    wanted = model(input_ids=ids).logits
mesh = init_device_mesh("cpu", (2,))
for layer in model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
with unsharded(model), torch.inference_mode():
    for _ in range(2 + 5 * dist.get_rank()):
        torch.testing.assert_close(model(input_ids=ids).logits, wanted)
loss = model(input_ids=ids).logits.sum()
loss.backward()
assert all(p.grad is not None and p.to_local().numel() <= p.numel() for p in model.parameters())
dist.barrier()
print(f"same {dist.get_rank()}\\n", end="", flush=True)  # in one piece, since both write to one pipe
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_processes_that_share_the_weights_generate_for_different_times(tmp_path: Path) -> None:
    bandit_model(tmp_path / "model", layers=2)
    (tmp_path / "run.py").write_text(SHARDED)
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(tmp_path / "run.py"), str(tmp_path / "model")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert {"same 0", "same 1"} <= set(done.stdout.split("\n")), done.stderr


def test_the_first_version_of_fsdp_is_refused() -> None:
    from types import SimpleNamespace

    from ken.training.sharding import check_sharding

    check_sharding(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=SimpleNamespace(fsdp_version=2))))
    check_sharding(SimpleNamespace(state=SimpleNamespace()))
    with pytest.raises(BadInput, match="set fsdp_version: 2"):
        check_sharding(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=SimpleNamespace(fsdp_version=1))))
