from dataclasses import replace
from typing import Any

import pytest

from stack.contract import first_break, is_whole_batch
from stack.services import Service
from stack.trace import Span
from stack.tree import tree

TOPIC = "sensors/sensor-001/reading"
MESSAGE_ID = "6f1c9b1e-7c55-4d0a-8f61-3f5f8f0a6f5e"


def span(number: int, name: str, kind: str, service: str, attributes: dict[str, Any]) -> Span:
    return Span(
        trace_id="a" * 32,
        span_id=f"{number:016x}",
        parent_id=f"{number - 1:016x}" if number > 1 else None,
        name=name,
        kind=kind,
        service=service,
        start=number,
        end=number + 1_500_000,
        attributes=attributes,
        resource={},
    )


def messaging(operation: str) -> dict[str, Any]:
    return {
        "messaging.system": "mqtt",
        "messaging.destination.name": TOPIC,
        "messaging.operation.type": operation,
        "messaging.operation.name": operation,
        "messaging.message.id": MESSAGE_ID,
        "messaging.message.body.size": 182,
        "messaging.client.id": "x",
        "server.address": "127.0.0.1",
        "server.port": 1883,
        "messaging.mqtt.qos": 1,
    }


def whole() -> list[Span]:
    http = {"http.request.method": "POST", "http.response.status_code": 200}
    return [
        span(1, f"publish {TOPIC}", "Producer", "producer", messaging("publish")),
        span(2, f"process {TOPIC}", "Consumer", "consumer", messaging("process")),
        span(3, "POST", "Client", "consumer", http | {"url.full": "http://127.0.0.1:8080/echo"}),
        span(4, "POST /echo", "Server", "echo", http | {"url.path": "/echo", "http.route": "/echo"}),
    ]


def test_a_whole_trace_has_no_break_in_whatever_order_it_comes() -> None:
    assert first_break(whole(), TOPIC, MESSAGE_ID) is None
    assert first_break(whole()[::-1], TOPIC, MESSAGE_ID) is None


def test_what_new_services_add_to_a_trace_is_left_out_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    http = {"http.request.method": "POST", "http.response.status_code": 200}
    added = [
        replace(span(5, f"process {TOPIC}", "Consumer", "alerter", {}), parent_id=f"{1:016x}", start=1),
        span(6, "POST", "Client", "alerter", http),
        span(7, "POST /echo", "Server", "echo", http),
    ]
    assert first_break([*added[::-1], *whole()], TOPIC, MESSAGE_ID)
    monkeypatch.setattr("stack.contract.new_services", lambda: [Service("alerter", {})])
    assert first_break([*added[::-1], *whole()], TOPIC, MESSAGE_ID) is None
    assert first_break([*added, *whole()[:-1]], TOPIC, MESSAGE_ID)


HOPS = ["producer → Mosquitto", "Mosquitto → consumer", "consumer → HTTP", "HTTP → echo"]


@pytest.mark.parametrize("missing", range(4))
def test_a_missing_span_breaks_its_hop(missing: int) -> None:
    spans = [span for number, span in enumerate(whole()) if number != missing]
    found = first_break(spans, TOPIC, MESSAGE_ID)
    assert found
    assert found.hop == HOPS[missing]
    assert found.problem.startswith("expected the span ")
    assert found.hint


def test_an_empty_trace_breaks_at_the_first_hop() -> None:
    found = first_break([], TOPIC, MESSAGE_ID)
    assert found
    assert (found.hop, found.problem.endswith("found nothing")) == (HOPS[0], True)


def test_every_attribute_of_the_contract_is_needed() -> None:
    checked = 0
    for number, original in enumerate(whole()):
        for name in original.attributes:
            spans = whole()
            spans[number] = replace(original, attributes={k: v for k, v in original.attributes.items() if k != name})
            found = first_break(spans, TOPIC, MESSAGE_ID)
            assert found, f"nobody misses {name} on {original.name}"
            assert found.hop == HOPS[number]
            assert name in found.problem
            checked += 1
    assert checked == 27


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("change", [{"service": "other"}, {"status": "Error", "status_message": "no"}, {"kind": "?"}])
def test_a_wrong_service_status_or_kind_breaks_the_hop(number: int, change: dict[str, Any]) -> None:
    spans = whole()
    spans[number] = replace(spans[number], **change)
    found = first_break(spans, TOPIC, MESSAGE_ID)
    assert found
    assert found.hop == HOPS[number]


def test_an_error_belongs_to_the_lowest_hop_that_has_it() -> None:
    spans = [replace(span, status="Error") for span in whole()[:3]] + whole()[3:]
    found = first_break(spans, TOPIC, MESSAGE_ID)
    assert found
    assert found.hop == "consumer → HTTP"


def test_a_consumer_that_still_tries_is_not_one_that_heard_nothing() -> None:
    publish, _, post, _ = whole()
    found = first_break([publish, replace(post, status="Error", status_message="refused")], TOPIC, MESSAGE_ID)
    assert found
    assert found.hop == "consumer → HTTP"
    assert found.problem == "the consumer is still trying, POST failed 1 times so far: refused"


def test_another_message_id_breaks_the_hop() -> None:
    found = first_break(whole(), TOPIC, "another")
    assert found
    assert "messaging.message.id" in found.problem


def test_a_fifth_span_is_one_too_many() -> None:
    found = first_break([*whole(), span(5, "POST /echo http send", "Internal", "echo", {})], TOPIC, MESSAGE_ID)
    assert found
    assert "expected 4 spans and no more, found 5" in found.problem


def test_a_batch_is_whole_with_a_link_and_an_answer() -> None:
    publish, process, *http = whole()
    publish = replace(publish, trace_id="b" * 32)
    batch = [replace(process, parent_id=None, links=((publish.trace_id, publish.span_id),)), *http]
    assert is_whole_batch(batch, publish)
    assert not is_whole_batch(batch, replace(publish, span_id="f" * 16)), "linked to another span"
    assert not is_whole_batch(batch[:2], publish), "echo did not answer"
    assert not is_whole_batch([], publish)
    refused = replace(http[1], attributes={"http.response.status_code": 422})
    assert not is_whole_batch([*batch[:2], refused], publish)


def test_the_tree_shows_a_line_a_span_with_its_duration() -> None:
    def lines(branch: Any) -> list[str]:
        return [str(branch.label), *(line for child in branch.children for line in lines(child))]

    assert lines(tree(whole())) == [
        f"trace {'a' * 32}",
        f"publish {TOPIC}  PRODUCER producer 1.5 ms",
        f"process {TOPIC}  CONSUMER consumer 1.5 ms",
        "POST  CLIENT consumer 1.5 ms",
        "POST /echo  SERVER echo 1.5 ms",
    ]
