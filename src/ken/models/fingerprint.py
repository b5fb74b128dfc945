"""What a model is, in one line: the key under which anything that was measured of it may be kept."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ken.models.local import LocalModel
from ken.models.protocol import Model

# Settings of a configuration that leave what the model says as it is: where it was loaded from, by which version, and
# what a trainer switches on and off. The dtype is told by the weights themselves.
_NEUTRAL = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "use_cache"}


def fingerprint(model: Model) -> str:
    """`weights:…` for a `LocalModel`, `spec:…` for any other.

    A local model is told by its weights (names, dtypes, shapes, bytes), configuration, tokenizer, chat template and
    decoder, so
    a copy in another folder is the same model and one more training step makes it another. It is computed anew at every
    call, about a second per GB; don't train the model meanwhile. Of a model behind a server only the name is known:
    when its weights change under the same name, what was kept of it is stale.
    """
    if not isinstance(model, LocalModel):
        return f"spec:{model.spec}"
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))  # as bytes: numpy knows no bfloat16
    rest: list[Any] = [
        {key: value for key, value in model.model.config.to_dict().items() if key not in _NEUTRAL},
        sorted(model.end_ids),
        model.tokenizer.backend_tokenizer.to_str(),
        model.tokenizer.chat_template,
        model.control_tokens,
        *([] if model.decoder is None else [model.decoder.name]),
    ]
    digest.update(json.dumps(rest, sort_keys=True, default=str).encode())
    return f"weights:{digest.hexdigest()}"
