"""schemathesis on the server's own OpenAPI document: what it promises is what it answers."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from vlcompress.bench.served import Served

LIMITS = settings(
    max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.timeout(120)
def test_answers_keep_the_contract(live_server: Served) -> None:
    """Every operation, valid and invalid: documented status, content type and schema, and no server error."""
    schema = schemathesis.openapi.from_url(f"http://{live_server.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 15
    for operation in operations:
        for mode in schemathesis.GenerationMode:
            _check(operation, mode)


def _check(operation: Any, mode: schemathesis.GenerationMode) -> None:
    @LIMITS
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        case.call_and_validate(timeout=30)

    check()
