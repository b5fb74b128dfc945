"""docs/scale.md: its configurations parse, what they configure builds, and its commands have the options they use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="needs the extra `train`")

from ken.core import BadInput
from ken.papers.recipes import recipe_of
from ken.papers.train import train_on
from ken.training.sharding import check_sharding
from ken.training.trl_arguments import trl_arguments

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "scale.md").read_text(encoding="utf-8")
FILES = sorted((DOCS / "accelerate").glob("*.yaml"))


def launch_arguments(file: Path) -> Any:
    """What `accelerate launch --config_file FILE` makes of the file."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    arguments = launch_command_parser().parse_args(["--config_file", str(file), "-m", "ken", "train"])
    return _validate_launch_command(arguments)[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_configuration_is_one_of_accelerate(file: Path) -> None:
    arguments = launch_arguments(file)
    assert arguments.num_processes == 8
    assert arguments.mixed_precision == "bf16"
    kind = {"ddp": "multi_gpu", "fsdp": "use_fsdp", "zero3": "use_deepspeed"}[file.stem]
    assert [name for name in ("multi_gpu", "use_fsdp", "use_deepspeed") if getattr(arguments, name)] == [kind]
    assert f"accelerate/{file.name}" in TEXT


def test_fsdp_is_the_version_that_can_generate(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.launch import prepare_multi_gpu_env

    for name, value in prepare_multi_gpu_env(launch_arguments(DOCS / "accelerate" / "fsdp.yaml")).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    check_sharding(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)))


def test_zero3_saves_whole_weights_and_does_not_build_the_model_itself() -> None:
    arguments = launch_arguments(DOCS / "accelerate" / "zero3.yaml")
    assert (arguments.zero_stage, arguments.zero3_save_16bit_model, arguments.zero3_init_flag) == (3, True, False)


def test_rollouts_by_vllm_are_configured_as_the_page_says() -> None:
    recipe = recipe_of("search-r1")
    options = recipe.chosen({"vllm": True, "vllm_memory": 0.3, "micro_batch": 4, "gradient_checkpointing": True})
    arguments = trl_arguments(options.rl(), "out", cpu=True, processes=8)
    assert (arguments.use_vllm, arguments.vllm_mode, arguments.vllm_gpu_memory_utilization) == (True, "colocate", 0.3)
    assert arguments.per_device_train_batch_size == 4
    # 512 questions × 5 rollouts in 2 updates by 8 processes, 4 at a time
    assert arguments.gradient_accumulation_steps == 512 * 5 // 2 // 8 // 4
    assert arguments.gradient_checkpointing


def test_vllm_is_asked_for_where_it_is_not_installed(tmp_path: Path) -> None:
    import ken
    from ken.core import Question

    if __import__("importlib.util").util.find_spec("vllm"):
        pytest.skip("vllm is installed")
    ken.Index.build([ken.Passage(id="a", text="Paris is the capital of France.")], tmp_path / "index")
    question = Question(id="q", text="What is the capital of France?", answers=("Paris",))
    with pytest.raises(ken.core.Unsupported, match="vllm is not installed; install it on a machine with GPUs"):
        train_on(
            "search-r1", model="lab/factworld", questions=[question], index=tmp_path / "index", out=tmp_path / "run",
            vllm=True,
        )  # fmt: skip


def test_every_option_on_the_page_exists() -> None:
    import typer

    from ken.cli.app import _assemble, app

    _assemble()
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    blocks = "\n".join(re.findall(r"```\n(.*?)```", TEXT, flags=re.DOTALL)).replace("\\\n", " ")
    seen = 0
    for name, rest in re.findall(r"\bken (train|audit) (.*)", blocks):
        known = {option for parameter in commands[name].params for option in parameter.opts}
        given = set(re.findall(r"(?<!\S)--[a-z0-9-]+", rest))
        assert given <= known, (name, given - known)
        seen += len(given)
    assert seen > 10


def test_units_are_what_processes_share() -> None:
    with pytest.raises(BadInput, match="this paper has no option units"):
        recipe_of("search-r1").chosen({"units": 3})
