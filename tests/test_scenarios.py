"""MQTT 3.1.1, batches and untrusted traces, end to end."""

import re
import time
from collections.abc import Callable

import pytest

from harness import Stack, eventually
from stack.trace import roots


# With a broker without MQTT 5, the consumer uses 3.1.1 too.
@pytest.mark.parametrize("of_consumer", ["5", "3.1.1"])
def test_mqtt_3_1_1_with_the_json_envelope_gives_connected_traces(
    new_stack: Callable[..., Stack], of_consumer: str
) -> None:
    stack = new_stack(MQTT_PROTOCOL="3.1.1", MQTT_CONSUMER_PROTOCOL=of_consumer, MQTT_JSON_ENVELOPE="1")
    stack.up()
    done = stack.run("verify")
    assert done.returncode == 0, done.stdout + done.stderr
    (trace_id,) = re.findall(r"/traces/([0-9a-f]{32})", done.stdout)
    (process,) = [span for span in stack.viewer.trace(trace_id) if span.kind == "Consumer"]
    assert process.attributes["messaging.mqtt.context_source"] == "json_payload"
    spoken = re.findall(r" as consumer \(p(\d)", stack.runtime.log_text("mosquitto"))
    assert set(spoken) == {{"5": "5", "3.1.1": "2"}[of_consumer]}
    stack.runtime.down()


def test_mqtt_3_1_1_without_it_gives_tagged_roots(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(MQTT_PROTOCOL="3.1.1", INTERVAL_SECONDS="0.5")
    since = time.time_ns()
    stack.up()
    done = stack.run("verify")
    assert done.returncode == 1
    assert "broken at Mosquitto → consumer: the process span is the root of another trace" in done.stderr

    found = eventually(lambda: stack.viewer.trace_ids(since, time.time_ns(), ("mqtt.missing_context", "true")))
    for (root,) in (roots(stack.viewer.trace(trace_id)) for trace_id in found):
        assert (root.kind, root.attributes["mqtt.missing_context_reason"]) == ("Consumer", "absent")
    stack.runtime.down()


def test_a_batch_is_one_span_with_a_link_to_each_publish_span(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(BATCH_SIZE="5", BATCH_SECONDS="2", WORKERS="1", INTERVAL_SECONDS="0.5")
    stack.up()

    def linked_to() -> list[tuple[str, str]]:
        done = stack.run("verify")
        assert done.returncode == 0, done.stdout + done.stderr
        return re.findall(r"processed in a batch of (\d+), by the span process in trace ([0-9a-f]{32})", done.stdout)

    # Tries again if the reading was alone in its batch, or if its batch failed.
    (linked,) = eventually(linked_to, 60)
    count, trace_id = int(linked[0]), linked[1]
    assert 2 <= count <= 5
    batch = stack.viewer.trace(trace_id)
    (process,) = [span for span in batch if span.kind == "Consumer"]
    assert process.attributes["messaging.batch.message_count"] == count == len(process.links)
    assert sorted(span.kind for span in batch) == ["Client", "Consumer", "Server"]
    for publish_trace, publish_span in process.links:
        (publish,) = eventually(lambda publish_trace=publish_trace: stack.viewer.trace(publish_trace))
        assert (publish.kind, publish.span_id) == ("Producer", publish_span)
    stack.runtime.down()


@pytest.mark.parametrize("bad", ["no JSON", '{"message_id": "x"}'])
def test_a_bad_reading_does_not_take_its_batch_with_it(new_stack: Callable[..., Stack], bad: str) -> None:
    stack = new_stack(BATCH_SIZE="5", BATCH_SECONDS="1", WORKERS="1", DEVICES="1", INTERVAL_SECONDS="0.2")
    stack.up()

    def count(what: str) -> int:
        return stack.runtime.log_text("consumer").count(what)

    stack.publish_with_mosquitto_pub("sensors/sensor-001/reading", bad)
    eventually(lambda: count(" to dead-letter/") == 1)
    before = count(" in a batch")
    eventually(lambda: count(" in a batch") > before + 10)
    assert count(" to dead-letter/") == 1
    stack.runtime.down()


def test_a_trace_that_is_not_trusted_is_only_linked(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(TRUST_TRACE_CONTEXT="0", BAGGAGE_KEYS="site.id", INTERVAL_SECONDS="60")
    stack.up()
    since = time.time_ns()
    message_id, trace_id, span_id = stack.publish_in_foreign_trace("foreign-001")
    spans = stack.spans_of("messaging.message.id", message_id, count=3, since=since)
    (process,) = roots(spans)
    assert sorted(span.kind for span in spans) == ["Client", "Consumer", "Server"]
    assert process.trace_id != trace_id
    assert process.links == ((trace_id, span_id),)
    stack.runtime.down()
