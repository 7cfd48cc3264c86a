"""Other backends' answers are read correctly."""

from typing import Any

import pytest

from stack.trace_backends import _jaeger_span

LINK = {"refType": "FOLLOWS_FROM", "traceID": "a" * 32, "spanID": "1" * 16}


@pytest.mark.parametrize(
    ("references", "parent"),
    [
        ([{**LINK, "refType": "CHILD_OF"}], "1" * 16),
        # The span has a link to its parent; Jaeger keeps one reference.
        ([LINK], "1" * 16),
        ([{**LINK, "traceID": "b" * 32}], None),
        ([], None),
    ],
)
def test_the_parent_of_a_span_in_jaeger(references: list[dict[str, str]], parent: str | None) -> None:
    data: dict[str, Any] = {
        "traceID": "a" * 32,
        "spanID": "2" * 16,
        "operationName": "process",
        "references": references,
        "startTime": 1,
        "duration": 1,
        "tags": [],
        "processID": "p1",
    }
    assert _jaeger_span(data, {"p1": {"serviceName": "consumer", "tags": []}}).parent_id == parent
