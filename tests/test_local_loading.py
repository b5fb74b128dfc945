"""A local model speaks through its tokenizer's own template; a folder broken in any way is one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import CHAT, NO_SYSTEM, byte_level_tokenizer, one, says, write_model

from ken.core import BadInput, ModelError
from ken.models import Instruction, Message

torch = pytest.importorskip("torch", reason="local models need torch; install with: pip install 'ken[lab]'")

from ken.models.local import LocalModel  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama"), byte_level_tokenizer())


@pytest.fixture(scope="module")
def model(folder: Path) -> LocalModel:
    return LocalModel(folder)


# --- templates ---


def templated(tmp_path: Path, template: str | None, folder: Path) -> LocalModel:
    import shutil

    shutil.copytree(folder, tmp_path / "m")
    byte_level_tokenizer(template).save_pretrained(tmp_path / "m")
    if template is None:
        (tmp_path / "m" / "chat_template.jinja").unlink(missing_ok=True)
    return LocalModel(tmp_path / "m")


def test_the_chat_template_is_the_tokenizers_own(model: LocalModel) -> None:
    conversation = [Message("system", Instruction(text="Full text.", token="<x>")), Message("user", "Why?")]
    text, ids = model.render([*conversation, Message("policy", "p", (70,)), Message("observation", "o")])
    opening = "<|im_start|>system\nFull text.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert text == opening + "po"
    expected = model.tokenizer(opening, add_special_tokens=False)["input_ids"]
    assert ids == [*expected, 70, *model.tokenizer("o", add_special_tokens=False)["input_ids"]]


def test_a_template_without_a_system_turn_gets_it_in_the_users(tmp_path: Path, folder: Path) -> None:
    text, _ = templated(tmp_path, NO_SYSTEM + CHAT, folder).render(says("Why?", system="Be brief."))
    assert text == "<|im_start|>user\nBe brief.\n\nWhy?<|im_end|>\n<|im_start|>assistant\n"


def test_a_tokenizer_without_a_template_gets_plain_paragraphs(tmp_path: Path, folder: Path) -> None:
    plain = templated(tmp_path, None, folder)
    assert plain.render(says("Why?", system="Be brief."))[0] == "Be brief.\n\nWhy?\n\n"
    assert one(plain, "Why?", max_tokens=3).text


def test_a_template_that_fails_is_a_model_error(tmp_path: Path, folder: Path) -> None:
    broken = templated(tmp_path, "{{ raise_exception('no\nway') }}", folder)
    with pytest.raises(ModelError, match=r"the chat template of .* failed: no"):
        one(broken, "Why?")


# --- loading ---


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])


def _garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 2000)


def _part(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))


BREAKS = {
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "weights cut short": _cut,
    "weights of garbage": _garbage,
    "a weight missing": _part,
    "weights of another shape": _shape,
    "no config": lambda f: (f / "config.json").unlink(),
    "a config cut short": lambda f: (f / "config.json").write_text('{"model_type": '),
    "an unknown kind": lambda f: (f / "config.json").write_text('{"model_type": "alien"}'),
    "a config of nonsense": lambda f: (f / "config.json").write_text('{"model_type": "llama", "hidden_size": "big"}'),
    "no tokenizer": lambda f: [p.unlink() for p in f.glob("token*")],
    "a broken tokenizer": lambda f: (f / "tokenizer.json").write_text('{"model": 7}'),
}


@pytest.mark.parametrize("damage", BREAKS)
def test_a_broken_folder_is_a_model_error_in_one_line(damage: str, folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "broken")
    BREAKS[damage](tmp_path / "broken")
    with pytest.raises(ModelError) as error:
        LocalModel(tmp_path / "broken")
    assert str(tmp_path / "broken") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_folder_an_unknown_dtype_and_an_unknown_device_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="cannot be loaded"):
        LocalModel(tmp_path / "nowhere")
    for dtype in ("float33", "nn"):
        with pytest.raises(BadInput, match="there is no dtype"):
            LocalModel(folder, dtype=dtype)
    with pytest.raises(ModelError, match="cannot be loaded"):
        LocalModel(folder, device="abacus")
    assert LocalModel(folder, dtype="bfloat16").model.dtype == torch.bfloat16
