"""Several processes that train one model: what each must have or know of the others.

DeepSpeed ZeRO-3 and FSDP 2 split the weights among processes, and all gather them together at every forward pass.
Rollouts differ in length from process to process: while generating, each must hold the weights whole, or one would wait
for ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from trl.models import prepare_deepspeed, prepare_fsdp, unwrap_model_for_generation

from ken.core import BadInput, KenError, SourceError


class NotFinite(KenError):
    """A loss, gradient or value that is not a number."""


def check_sharding(accelerator: Any) -> None:
    """Raises `BadInput` for the first version of FSDP, which cannot hold its weights whole for long."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and plugin.fsdp_version != 2:
        raise BadInput("FSDP 1 cannot generate here; set fsdp_version: 2 in the configuration of accelerate")


def prepared_reference(model: torch.nn.Module, accelerator: Any) -> Any:
    """The frozen model of the KL term, split as the policy is."""
    kind = str(accelerator.distributed_type).rpartition(".")[2]
    if kind == "DEEPSPEED":
        return prepare_deepspeed(model, accelerator)
    if kind == "FSDP":
        return prepare_fsdp(model, accelerator)
    return accelerator.prepare_model(model, evaluation_mode=True)


@contextmanager
def whole_weights(wrapped: Any, accelerator: Any) -> Iterator[None]:
    """Every process holds all weights, and a forward pass is its own affair."""
    if accelerator.num_processes == 1:
        yield
        return
    with unwrap_model_for_generation(wrapped, accelerator), unsharded(wrapped):  # the former knows of ZeRO-3
        yield


@contextmanager
def unsharded(model: torch.nn.Module) -> Iterator[None]:
    """The weights of FSDP 2 gathered until the end of the block; of any other model, nothing is done."""
    from torch.distributed.fsdp import FSDPModule

    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def whole_state(wrapped: Any, accelerator: Any) -> dict[str, torch.Tensor] | None:
    """All weights, on the first process, where they are split; None where the model has them anyway. All processes must
    call it."""
    kind = str(accelerator.distributed_type).rpartition(".")[2]
    state: dict[str, torch.Tensor] | None = None
    if kind in {"DEEPSPEED", "FSDP"}:
        state = accelerator.get_state_dict(wrapped)
    return state


def anyone(flag: bool, accelerator: Any) -> bool:
    """Whether the flag is raised on any process. All must call it."""
    if accelerator.num_processes == 1:
        return flag
    raised = accelerator.reduce(torch.tensor([float(flag)], device=accelerator.device), reduction="sum")
    return bool(raised.item())


def check_gradients(parameters: Iterable[torch.nn.Parameter], accelerator: Any, *, step: int) -> None:
    """Before an update. Raises `NotFinite`, in all processes, when a gradient in any of them is not a number."""
    gradients = (p.grad for p in parameters if p.grad is not None)
    local = [g.to_local() if hasattr(g, "to_local") else g for g in gradients]  # of what this process holds
    largest = [g.float().abs().max() for g in local if g.numel()]
    broken = bool(largest) and not math.isfinite(float(torch.stack(largest).max()))
    if anyone(broken, accelerator):
        raise NotFinite(f"the loss is no longer a number at step {step}; lower lr or raise clipping")


def check_together(check: Callable[[], None]) -> None:
    """Call `check`, and raise `SourceError` on all processes when it does on any: one that went on alone would wait for
    the others for ever. All must call it."""
    from accelerate import PartialState
    from accelerate.utils import reduce

    problem: SourceError | None = None
    try:
        check()
    except SourceError as error:
        problem = error
    state = PartialState()
    if state.num_processes > 1:
        raised = reduce(torch.tensor([float(problem is not None)], device=state.device), reduction="sum")
        if raised.item() and problem is None:
            raise SourceError("a tool or a judge is down in another process, which says which; repair it, then resume")
    if problem is not None:
        raise problem
