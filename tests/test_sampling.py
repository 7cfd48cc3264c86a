"""Sampling keeps or drops whole traces, but never loses a reading."""

import json
import re
import time
from collections.abc import Callable
from uuid import uuid4

from harness import Stack, eventually, is_whole, reading
from stack.trace import roots

READINGS = 80


def processed(stack: Stack) -> int:
    """The number of readings that the consumer has processed, according to its log."""
    return len(re.findall("processed reading", stack.runtime.log_text("consumer")))


def test_a_ratio_at_the_producer_decides_for_the_whole_trace(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(INTERVAL_SECONDS="0.3")
    stack.environment |= {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    since = time.time_ns()
    stack.up()
    eventually(lambda: processed(stack) >= READINGS)
    # The reading of `make verify` is always traced, whatever the ratio.
    verified = [stack.run("verify").returncode for _ in range(4)]
    assert verified == [0] * 4
    # The producer ends first, so that its readings reach echo before the others end.
    for part in ("producer", "consumer", "echo"):
        stack.stop_part(part)
    count = processed(stack) - len(verified)
    traces = [stack.viewer.trace(trace_id) for trace_id in stack.viewer.trace_ids(since, time.time_ns())]
    assert all(is_whole(spans) for spans in traces)
    # Half of them, within five standard deviations.
    assert abs(len(traces) - len(verified) - count / 2) < 5 * (count / 4) ** 0.5


def test_tail_sampling_keeps_errors_and_missing_contexts(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(INTERVAL_SECONDS="0.5", TAIL_SAMPLING_PERCENTAGE="0")
    stack.environment["TAIL_SAMPLING_WAIT"] = "1s"
    since = time.time_ns()
    stack.up()
    eventually(lambda: processed(stack) >= READINGS / 4)
    lost = str(uuid4())
    payload = json.dumps(reading(message_id=lost, device_id="legacy-001"))
    stack.publish_with_mosquitto_pub("sensors/legacy-001/reading", payload, "-V", "mqttv311")
    # It has a context, but echo refuses it: the span is an error, so the whole trace is kept.
    failed = str(uuid4())
    context = ["-D", "publish", "user-property", "traceparent", f"00-{uuid4().hex}-{uuid4().hex[:16]}-01"]
    payload = json.dumps({"message_id": failed})
    stack.publish_with_mosquitto_pub("sensors/broken-001/reading", payload, "-V", "mqttv5", *context)

    (missing, *_) = roots(stack.spans_of("messaging.message.id", lost, count=3, since=since))
    assert missing.attributes["mqtt.missing_context"] is True
    error = next(
        s for s in stack.spans_of("messaging.message.id", failed, count=3, since=since) if s.kind == "Consumer"
    )
    assert error.status == "Error"

    # The decisions are made in order, so by now the traces before these have been dropped.
    kept = {
        span.name for trace_id in stack.viewer.trace_ids(since, time.time_ns()) for span in stack.viewer.trace(trace_id)
    }
    assert not {name for name in kept if "sensors/sensor-" in name}
    assert stack.run("verify").returncode == 0
