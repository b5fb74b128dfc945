"""A spec names a model; what cannot be loaded is said in a sentence."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ken.core import BadInput, Unsupported
from ken.models import load_model
from ken.models.endpoint import EndpointModel


@pytest.mark.parametrize("spec", ["", " ", "gpt-4o", "openai", "openai/", "openai/ ", "azure/x", "/x", "hf/", "lab/"])
def test_a_spec_that_names_no_model_is_bad_input_and_lists_the_kinds(spec):
    with pytest.raises(BadInput) as caught:
        load_model(spec)
    for kind in ("openai/", "hf/", "lab/factworld"):
        assert kind in str(caught.value)


def test_an_endpoint_takes_its_options_and_keeps_slashes_in_its_name():
    model = load_model("openai/Qwen/Qwen3-8B", base_url="http://localhost:1/v1", concurrency=3, timeout=None)
    assert isinstance(model, EndpointModel)
    assert (model.spec, model.name, model.concurrency) == ("openai/Qwen/Qwen3-8B", "Qwen/Qwen3-8B", 3)


@pytest.mark.parametrize(
    ("spec", "option"), [("openai/x", "device"), ("hf/x", "base_url"), ("lab/factworld", "retries")]
)
def test_an_option_of_another_kind_of_model_is_bad_input(spec, option):
    with pytest.raises(BadInput, match=f"no option '{option}'"):
        load_model(spec, **{option: "x"})


@pytest.mark.parametrize("spec", ["hf/x", "lab/factworld"])
def test_without_torch_the_error_says_what_to_install(spec, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(Unsupported, match=r"needs torch; install with: pip install 'ken\[lab\]'"):
        load_model(spec)


def test_the_options_of_each_kind_are_those_of_the_class_behind_it():
    import inspect

    from ken.models.loading import OPTIONS
    from ken.models.local import LocalModel

    def keywords(function: object) -> set[str]:
        parameters = inspect.signature(function).parameters.values()
        return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}

    assert set(OPTIONS["openai"]) == keywords(EndpointModel)
    assert set(OPTIONS["hf"]) == keywords(LocalModel) - {"spec"}


def test_naming_models_imports_nothing_heavy():
    code = "import sys, ken.models; print([m for m in ('openai', 'torch', 'httpx', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
