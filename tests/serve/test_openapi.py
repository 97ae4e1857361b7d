"""The OpenAPI document holds for what the server answers to requests that schemathesis makes up."""

from __future__ import annotations

from collections.abc import Callable

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from served import Served

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]


def test_answers_to_made_up_requests_are_as_the_document_says(serve: Callable[..., Served]) -> None:
    server = serve()
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    asked: set[tuple[str, int]] = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=15,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case: schemathesis.Case) -> None:
            if "{model}" in case.path:
                case.path_parameters = {**case.path_parameters, "model": "crops"}
            answer = case.call()
            asked.add((case.operation.label, answer.status_code))
            case.validate_response(answer, checks=CHECKS)

        check()
    assert {label for label, _ in asked} == {operation.ok().label for operation in schema.get_all_operations()}
    assert {200, 400} <= {status for _, status in asked}
