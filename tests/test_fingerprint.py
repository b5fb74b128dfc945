"""A fingerprint tells models apart by what they say, not by where they lie."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `lab`")

from tiny_models import CHAT, NO_SYSTEM, byte_level_tokenizer, write_model  # noqa: E402

import ken.models.fingerprint as module  # noqa: E402
from ken.models import load_model  # noqa: E402
from ken.models.fingerprint import fingerprint  # noqa: E402
from ken.models.local import LocalModel  # noqa: E402
from ken.models.scripted import ScriptedModel  # noqa: E402


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", byte_level_tokenizer(CHAT))


def test_a_copy_in_another_folder_is_the_same_model_also_after_saving_it_again(folder: Path, tmp_path: Path) -> None:
    first = LocalModel(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert fingerprint(LocalModel(tmp_path / "copy")) == fingerprint(first)
    first.model.config.use_cache = False  # as a trainer does
    first.model.save_pretrained(tmp_path / "saved")
    first.tokenizer.save_pretrained(tmp_path / "saved")
    assert fingerprint(LocalModel(tmp_path / "saved")) == fingerprint(first)
    assert fingerprint(first).startswith("weights:")


def test_one_weight_the_dtype_the_template_or_a_setting_makes_it_another(folder: Path, tmp_path: Path) -> None:
    prints = [fingerprint(LocalModel(folder))]
    prints.append(fingerprint(LocalModel(folder, dtype="bfloat16")))
    prints.append(fingerprint(LocalModel(folder, control_tokens=True)))
    changed = LocalModel(folder)
    with torch.no_grad():
        next(changed.model.parameters()).view(-1)[-1] += 1e-6
    prints.append(fingerprint(changed))
    templated = LocalModel(folder)
    templated.tokenizer.chat_template = NO_SYSTEM + CHAT
    prints.append(fingerprint(templated))
    configured = LocalModel(folder)
    configured.model.config.rms_norm_eps = 0.1
    prints.append(fingerprint(configured))
    assert len(set(prints)) == len(prints)


def test_a_sampling_run_leaves_the_fingerprint_as_it_was(folder: Path) -> None:
    from tiny_models import one

    model = LocalModel(folder)
    before = fingerprint(model)
    one(model, "Where does the Elbe end?", max_tokens=5, temperature=1.0)
    assert fingerprint(model) == before


def test_of_a_model_elsewhere_only_the_name_is_known() -> None:
    assert fingerprint(load_model("openai/some-model", base_url="http://localhost:1/v1")) == "spec:openai/some-model"
    assert fingerprint(ScriptedModel(lambda _: "")) == "spec:scripted"
    assert "torch" not in vars(module), "torch is only imported for a model that has weights"
