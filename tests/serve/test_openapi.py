"""The OpenAPI document against the app: schemathesis makes requests from it and judges what comes back."""

from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.serve.conftest import Client, settings_of
from vlcompress.serve.app import create_app, endpoints
from vlcompress.serve.openapi import openapi_document

CHECKS = [
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]


@pytest.fixture(scope="session")
def app(models: Path) -> Any:
    """An app on models that no input makes give NaN, so that a 500 is a bug."""
    made = create_app(settings_of(models, models=settings_of(models).models[:2]))
    made.state.server.load()
    return made


@pytest.fixture(scope="session")
def api(app: Any) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", app)


MODES = {"valid": GenerationMode.POSITIVE, "invalid": GenerationMode.NEGATIVE}


@pytest.mark.parametrize("mode", MODES)
def test_the_app_answers_as_its_document_says(api: Any, mode: str) -> None:
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:

        @given(case=operation.as_strategy(generation_mode=MODES[mode]))
        @effort(max_examples=5, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS)

        with suppress(Unsatisfiable, SkipTest):  # an operation without parameters cannot be called wrongly
            check()


def test_the_document_lists_every_route_and_no_other(client: Client) -> None:
    routes = {
        (route.path, method.lower())
        for route in client.app.routes
        for method in (route.methods or ())
        if method != "HEAD"
    }
    left_out = {"/openapi.json", "/v2/repository/models/{model}/load", "/v2/repository/models/{model}/unload"}
    paths = client.get("/openapi.json").json()["paths"]
    written = {(path, method) for path, item in paths.items() for method in item if method != "parameters"}
    expected = {(path, method) for path, method in routes if path not in left_out}
    assert written == expected


def test_a_server_with_a_token_says_so_everywhere_but_on_what_is_open() -> None:
    document = openapi_document(endpoints(page=True), ["m"], ["vqa"], authenticated=True)
    free = {
        path
        for path, item in document["paths"].items()
        for method in ("get", "post")
        if method in item and item[method].get("security") == []
    }
    assert free == {"/", "/v2/health/live", "/v2/health/ready"}
    assert "401" in document["paths"]["/v2/models/{model}/infer"]["post"]["responses"]
