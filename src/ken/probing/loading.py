"""Models with a decoder, which may be named as on a command line: `lfd`, `dola:layers=low`, `lfd:weight=2`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from ken import models
from ken.core import BadInput, Unsupported
from ken.models import Model
from ken.models.decoder import Decoder


def load_decoder(text: str) -> Decoder:
    """The decoder that `text` names, with its settings after a colon: `lfd:weight=2,alpha=0.3`. Raises `BadInput` for a
    name or setting that there is not, `Unsupported` when torch is not installed."""
    if missing := [module for module in ("torch", "transformers") if find_spec(module) is None]:
        raise Unsupported(f"decoders need {' and '.join(missing)}; install with: pip install 'ken[lab]'")
    from ken.probing.decoders import DECODERS

    kind, _, rest = text.strip().partition(":")
    if kind not in DECODERS:
        raise BadInput(f"there is no decoder {kind!r}; choose from {', '.join(DECODERS)}")
    decoder, fields = DECODERS[kind], [f for f in DECODERS[kind].model_fields if f != "pool"]
    given: dict[str, str] = {}
    for setting in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not equals or key not in fields:
            takes = f"it takes {', '.join(fields)}" if fields else "it takes none"
            raise BadInput(f"the decoder {kind} has no setting {key!r}; {takes} (as in {kind}:KEY=VALUE)")
        given[key] = value
    made = decoder(**given)  # pydantic reads numbers that are written out
    assert isinstance(made, Decoder)
    return made


def load_model(spec: str, **options: Any) -> Model:
    """`ken.models.load_model`, where the decoder may also be given by its name: `decoder="lfd:weight=2"`.

    Raises what both raise; for a model on a server `Unsupported`, before anything is imported.
    """
    named = options.get("decoder")
    if isinstance(named, str) and spec.strip().startswith(("hf/", "lab/")):
        options = {**options, "decoder": load_decoder(named)}
    return models.load_model(spec, **options)


def spec_with(spec: str, decoder: str | Decoder | None) -> str:
    """The spec that a model loaded so will have, for logs that are begun before it is loaded."""
    if decoder is None:
        return spec.strip()
    return f"{spec.strip()}+{(load_decoder(decoder) if isinstance(decoder, str) else decoder).name}"
