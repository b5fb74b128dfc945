"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) by peft, for models that are too large to train whole.

Training sees the adapters only; afterwards they are merged, so that what comes out is the same kind of model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ken.core import BadInput, Unsupported
from ken.core.explained import Explained

if TYPE_CHECKING:
    from ken.models.local import LocalModel


class LoraConfig(Explained):
    """Adapters of rank `rank`, scaled by `alpha` / rank, on the modules whose names end with one of `targets`.

    The defaults are those of card 55, where the paper's could not be seen. Raises `BadInput` for a value out of range.
    """

    called = "LoRA"

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = Field(default=("q_proj", "v_proj"), min_length=1)


def peft() -> Any:
    """The module. Raises `Unsupported` when it is not installed."""
    try:
        import peft as module
    except ImportError as error:
        raise Unsupported("LoRA needs peft; install with: pip install 'ken[lora]', or train the whole model") from error
    return module


@contextmanager
def adapted(policy: LocalModel, config: LoraConfig | None, *, seed: int = 0) -> Iterator[None]:
    """While the context lasts, `policy.model` is the model with fresh adapters, the only parameters that are trained;
    afterwards it is the model with what they learnt merged into its weights. Without a config nothing happens.

    When training fails, the adapters are merged as well: what was learnt until then is not lost. Raises `Unsupported`
    without peft, `BadInput` when the model has no module of the names in `targets`.
    """
    if config is None:
        yield
        return
    import torch

    module = peft()
    trained = {name for name, parameter in policy.model.named_parameters() if parameter.requires_grad}
    torch.manual_seed(seed)
    settings = module.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        task_type="CAUSAL_LM",
    )
    try:
        policy.model = module.get_peft_model(policy.model, settings)
    except ValueError as error:
        raise BadInput(
            f"LoRA finds no modules to adapt ({', '.join(config.targets)}); name some that {policy.spec} has"
        ) from error
    try:
        yield
    finally:
        policy.model = policy.model.merge_and_unload()
        for name, parameter in policy.model.named_parameters():
            parameter.requires_grad_(name in trained)
