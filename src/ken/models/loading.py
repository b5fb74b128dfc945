"""From a spec such as `openai/gpt-4o-mini` to a model."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from ken.core import BadInput, Unsupported
from ken.models.decoder import Decoder
from ken.models.protocol import Model

KINDS = {
    "openai": "openai/NAME for a model of an OpenAI-compatible server (for example openai/gpt-4o-mini)",
    "hf": "hf/NAME_OR_PATH for a transformers model in this process (for example hf/Qwen/Qwen3-0.6B or hf/./my-model)",
    "lab": "lab/NAME for a model that lives in a lab world (for example lab/factworld)",
}

# Named here, and not read from the classes, so that a wrong option is reported without importing torch.
OPTIONS = {
    "openai": (
        "base_url",
        "api_key",
        "concurrency",
        "retries",
        "timeout",
        "logprobs",
        "control_tokens",
        "http",
        "backoff_base",
        "backoff_cap",
    ),
    "hf": ("device", "dtype", "batch_size", "kept_bytes", "control_tokens", "decoder"),
    "lab": ("decoder",),
}


def load_model(spec: str, **options: Any) -> Model:
    """The model that `spec` names.

    spec: "openai/NAME" (a server, `ken.models.endpoint.EndpointModel`), "hf/NAME_OR_PATH" (in this process,
        `ken.models.local.LocalModel`) or "lab/NAME" (a model of a lab world, which takes no option but a decoder).
    options: keyword arguments of the class behind the spec: base_url, api_key, concurrency, retries, timeout, logprobs,
        control_tokens, http, backoff_base, backoff_cap; or device, dtype, batch_size, kept_bytes, control_tokens. One
        that is None counts as not given, so that a command line can pass all it has.

    >>> load_model("openai/qwen3-8b", base_url="http://localhost:8000/v1").spec
    'openai/qwen3-8b'

    Raises `BadInput` for an unknown spec or an option that this kind of model does not take, `Unsupported` when the
    extra that it needs is not installed, or for a decoder where there are no hidden states, `ModelError` when a model
    cannot be loaded.
    """
    kind, _, name = spec.strip().partition("/")
    if kind not in KINDS or not name.strip():
        raise BadInput(f"{spec!r} is not a model; a model is one of: {'; '.join(KINDS.values())}")
    given = {key: value for key, value in options.items() if value is not None}
    if kind == "openai" and "decoder" in given:
        raise Unsupported(
            f"a decoder needs the hidden states of a model in this process, and {spec} runs on a server; use hf/… or "
            "lab/…, or leave the decoder out"
        )
    if unknown := sorted(set(given) - set(OPTIONS[kind])):
        takes = f"its options are {', '.join(OPTIONS[kind])}" if OPTIONS[kind] else "it takes none"
        raise BadInput(f"a model of kind {kind}/ has no option {unknown[0]!r}; {takes}")

    if kind == "openai":
        from ken.models.endpoint import EndpointModel

        return EndpointModel(name, **given)
    if missing := [module for module in ("torch", "transformers") if find_spec(module) is None]:
        raise Unsupported(f"{spec} needs {' and '.join(missing)}; install with: pip install 'ken[lab]'")
    if (decoder := given.get("decoder")) is not None and not isinstance(decoder, Decoder):
        raise BadInput(
            f"a decoder is one of ken.probing.decoders, not {decoder!r}; see `ken.probing.loading` for names"
        )
    if kind == "hf":
        from ken.models.local import LocalModel

        return LocalModel(name, spec=spec.strip(), **given)
    from ken.models.lab import load_lab_model

    return load_lab_model(name, **given)
