"""Models that live in a lab world: a `LocalModel` on a small checkpoint that ships with the package."""

from __future__ import annotations

from pathlib import Path

from ken.core import BadInput
from ken.models.decoder import Decoder
from ken.models.local import LocalModel

CHECKPOINTS = Path(__file__).parent / "checkpoints"


def load_lab_model(name: str, *, decoder: Decoder | None = None) -> LocalModel:
    """The shipped model called `name`, or one that `ken lab build` wrote to the folder `name`.

    Raises `BadInput` when there is neither. The model takes control tokens instead of written instructions.
    decoder: as of `LocalModel`.
    """
    folder = CHECKPOINTS / name
    if "/" in name or not folder.is_dir():
        folder = Path(name)
    if not (folder / "config.json").is_file():
        shipped = ", ".join(f"lab/{path.name}" for path in sorted(CHECKPOINTS.iterdir()) if path.is_dir())
        raise BadInput(
            f"there is no lab model {name!r}; choose {shipped}, or lab/FOLDER with a folder written by `ken lab build`"
        )
    return LocalModel(folder, spec=f"lab/{name}", device="cpu", batch_size=256, control_tokens=True, decoder=decoder)
