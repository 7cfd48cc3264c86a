"""The service map: which edges the Collector makes of the spans, with parents and with links."""

import time
from collections import Counter
from collections.abc import Callable

import pytest
import requests

from harness import Stack, eventually
from stack.part import local_url
from stack.trace import Span

Edges = dict[tuple[str, str, str], int]


def edges(stack: Stack) -> Edges:
    """Client, server and connection type of each edge in Prometheus, and its count."""
    query = "sum by (client, server, connection_type) (traces_service_graph_request_total)"
    answer = requests.get(
        local_url(stack.settings.prometheus_port, "/api/v1/query"), params={"query": query}, timeout=10
    )
    found = answer.json()["data"]["result"]
    return {
        (labels["client"], labels["server"], labels.get("connection_type", "")): int(value)
        for labels, (_, value) in ((one["metric"], one["value"]) for one in found)
    }


def edges_of(spans: list[Span]) -> Edges:
    """The edges that the Collector should make of these spans, when it has waited for their other sides."""
    kinds = Counter(span.kind for span in spans)
    children = sum(span.kind == "Consumer" and span.parent_id is not None for span in spans)
    made = {
        ("producer", "consumer", "messaging_system"): children,
        # Halves of a message that only a link joins.
        ("producer", "mqtt", "virtual_node"): kinds["Producer"] - children,
        ("user", "consumer", "virtual_node"): kinds["Consumer"] - children,
        ("consumer", "echo", ""): kinds["Server"],
    }
    return {edge: count for edge, count in made.items() if count}


JOINED = {("producer", "consumer", "messaging_system")}
HALVES = {("producer", "mqtt", "virtual_node"), ("user", "consumer", "virtual_node")}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({}, JOINED, id="parents"),
        pytest.param({"TRUST_TRACE_CONTEXT": "0"}, HALVES, id="links"),
        pytest.param({"BATCH_SIZE": "9", "BATCH_SECONDS": "2", "WORKERS": "1"}, HALVES, id="batches"),
    ],
)
def test_the_edges_are_those_of_the_spans(
    values: dict[str, str], expected: set[tuple[str, str, str]], new_stack: Callable[..., Stack]
) -> None:
    stack = new_stack(BACKENDS="prometheus", DEVICES="3", INTERVAL_SECONDS="1", **values)
    since = time.time_ns()
    stack.up()

    def spans() -> list[Span]:
        ids = stack.viewer.trace_ids(since, time.time_ns())
        return [span for trace_id in ids for span in stack.viewer.trace(trace_id)]

    eventually(lambda: expected <= edges_of(spans()).keys())
    # It sends what it has kept, so nothing comes after it has ended.
    stack.stop_part("producer")
    # An edge of one side only comes when the time for the other has passed.
    eventually(lambda: edges(stack) == edges_of(spans()), 90)
    # A batch of one reading is a child, as without batches.
    assert edges(stack).keys() - expected <= {("consumer", "echo", "")} | (JOINED if "BATCH_SIZE" in values else set())
    stack.runtime.down()
