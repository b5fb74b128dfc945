"""Requests that nobody would think of, made up from the OpenAPI document: no reply breaks it, and none is a 5xx."""

from __future__ import annotations

from collections.abc import Iterator

import capitals
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import running
from schemathesis import Case
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode

from ken.models.scripted import ScriptedModel
from ken.serving.service import Service

# Left out: a request can have the right shape and ask for a model, an index or a conversation that there is not, which
# is 400 or 404; a document cannot say so.
LEFT_OUT = {"positive_data_acceptance"}
EXAMPLES = 30


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    index = capitals.build_index(tmp_path_factory.mktemp("schema") / "capitals")
    model = ScriptedModel(lambda _: "<assessment>no</assessment><search>x</search><answer>yes</answer>", spec="m")
    with running(Service([model], indexes={"capitals": index})) as address:
        yield address


POSTS = ("/v1/chat/completions", "/v1/ask")
GETS = ("/v1/models", "/v1/models/{model}", "/healthz", "/metrics")


@pytest.mark.parametrize(
    ("path", "mode"),
    [(path, mode) for path in POSTS for mode in GenerationMode] + [(path, GenerationMode.POSITIVE) for path in GETS],
)
def test_every_reply_is_what_the_document_says(url: str, path: str, mode: GenerationMode) -> None:
    (operation,) = schemathesis.openapi.from_url(f"{url}/openapi.json")[path].values()
    statuses = set()

    @given(case=operation.as_strategy(generation_mode=mode), named=st.booleans())
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def check(case: Case, named: bool) -> None:
        if named and mode == GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body |= {"model": "ken/adaptive"} if "chat" in path else {"strategy": "search", "model": "m"}
            for options in (case.body, case.body.get("ken")):  # no name that is made up is one of an index
                if isinstance(options, dict):
                    options.pop("index", None)
        reply = case.call_and_validate(timeout=60, excluded_checks=[CHECKS.get_one(name) for name in LEFT_OUT])
        statuses.add(reply.status_code)

    check()
    if mode == GenerationMode.NEGATIVE:
        assert all(400 <= status < 500 for status in statuses)
    elif path in POSTS:
        assert {200} < statuses, "some were answered, and not only refused"
