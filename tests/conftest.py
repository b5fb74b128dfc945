"""A real OpenAI-compatible server that this project did not write, for all tests that ask for one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from browser import chromium, launched, served  # noqa: F401 (fixtures)
from hypothesis import settings

import ken.models

settings.register_profile("ken", deadline=None)  # a busy machine is no defect
settings.load_profile("ken")

START_SECONDS = 120  # importing torch and transformers on a loaded machine takes a while

# The server ends with the tests even when those are killed: it watches for the death of its parent.
SERVE = """
import os, threading, time

def follow(parent):
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)

threading.Thread(target=follow, args=[os.getppid()], daemon=True).start()
from transformers.cli.transformers import main
main()
"""


@dataclass(frozen=True)
class Served:
    """A running server: its base URL and the name of the model it serves (the folder)."""

    base_url: str
    model: str


@pytest.fixture(scope="session")
def transformers_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`transformers serve` with a tiny model of random weights, on a free port of loopback."""
    missing = [module for module in ("torch", "transformers", "fastapi", "uvicorn") if find_spec(module) is None]
    if missing:
        pytest.skip(f"transformers serve needs {', '.join(missing)}; install with: pip install 'ken[dev]'")
    folder = tmp_path_factory.mktemp("served") / "tiny"
    write_tiny_model(folder)
    yield from serve_with_transformers(folder, log=folder.parent / "log")


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`transformers serve` with the shipped model of FactWorld. Ask it with `control_tokens=True`."""
    folder = Path(ken.models.__file__).parent / "checkpoints" / "factworld"
    if not (folder / "config.json").is_file():
        pytest.skip("the checkpoint of FactWorld is not built; run `ken lab build factworld`")
    yield from serve_with_transformers(folder, log=tmp_path_factory.mktemp("served") / "log")


def serve_with_transformers(model: Path, log: Path) -> Iterator[Served]:
    """Serve a model folder until the generator is closed; the server dies with everything it started."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVE, "serve", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        _wait_until_healthy(process, port, log)
        yield Served(f"http://127.0.0.1:{port}/v1", str(model))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it is its own session, so nothing of it survives
        process.wait(timeout=10)


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """The model is loaded before the port opens, so the first healthy answer means ready."""
    deadline = time.monotonic() + START_SECONDS
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with direct.open(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
                if json.load(reply)["status"] == "ok":
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"transformers serve did not start:\n{log.read_text(errors='replace')[-4000:]}")


def write_tiny_model(folder: Path) -> None:
    """A two-layer Llama of random weights (fixed seed) over a small vocabulary of words and tags."""
    import torch
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    tags = [f"<{slash}{name}>" for name in ("think", "search", "answer") for slash in ("", "/")]
    # Transformers writes "abcdef" to learn how a tokenizer spells stop strings; a word-level one must know that word.
    words = [*special, *tags, "abcdef", *(f"word{i}" for i in range(50))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    backend.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = "<bos> {% for message in messages %}{{ message['content'] }} {% endfor %}"
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=512,
            initializer_range=0.5,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.generation_config.do_sample = True  # without it, `transformers serve` is greedy at every temperature
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
