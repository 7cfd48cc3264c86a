# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""What a message costs in bytecode instructions: a count, so it is the same on a busy machine as on an idle one.

Counted is what Python executes to publish a message and handle its acknowledgement, and to handle one that arrives.
The clients are driven by hand, so that nothing runs beside them.
"""

import argparse
import json
import select
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import paho.mqtt.client as mqtt
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import Link, SpanContext, SpanKind
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

TOPIC = "sensors/sensor-001/reading"
RECEIVED_TOPIC = "sensors/sensor-002/reading"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MESSAGES = 20
TIMEOUT_SECONDS = 10.0


def instructions(function: Callable[[], object]) -> int:
    """How many bytecode instructions a call executes."""
    executed = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal executed
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        executed += event == "opcode"
        return trace

    def count(*_: object) -> None:
        nonlocal executed
        executed += 1

    if sys.version_info < (3, 12):
        sys.settrace(trace)
        function()
        sys.settrace(None)
    else:
        # There, a trace function misses some.
        monitoring = sys.monitoring
        monitoring.use_tool_id(monitoring.PROFILER_ID, "instructions")
        monitoring.register_callback(monitoring.PROFILER_ID, monitoring.events.INSTRUCTION, count)
        monitoring.set_events(monitoring.PROFILER_ID, monitoring.events.INSTRUCTION)
        function()
        monitoring.free_tool_id(monitoring.PROFILER_ID)
    return executed


def await_packet(client: mqtt.Client) -> None:
    """Waits for the broker, outside of what is counted."""
    socket = client.socket()
    if socket is None or not select.select([socket], [], [], TIMEOUT_SECONDS)[0]:
        raise TimeoutError("the broker does not answer")


def connected(port: int) -> mqtt.Client:
    """A client that somebody has to drive."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.connect("127.0.0.1", port)
    await_packet(client)
    client.loop_read()
    return client


def message_costs(port: int) -> dict[str, int]:
    """Instructions to publish a message and have it acknowledged, and to receive one; the least of several."""
    publisher, subscriber = connected(port), connected(port)
    subscriber.on_message = lambda *_: None
    subscriber.subscribe(RECEIVED_TOPIC, qos=0)
    await_packet(subscriber)
    subscriber.loop_read()
    # What is received is the same with and without the instrumentation.
    traced = Properties(PacketTypes.PUBLISH)
    traced.UserProperty = [("traceparent", TRACEPARENT)]
    published: list[int] = []
    received: list[int] = []
    for _ in range(MESSAGES):
        sending = instructions(lambda: publisher.publish(TOPIC, "20.5", qos=1))
        await_packet(publisher)
        published.append(sending + instructions(publisher.loop_read))
        publisher.publish(RECEIVED_TOPIC, "20.5", properties=traced)
        await_packet(subscriber)
        received.append(instructions(subscriber.loop_read))
    publisher.disconnect()
    subscriber.disconnect()
    return {"publish": min(published), "receive": min(received)}


def span_costs(provider: TracerProvider) -> dict[str, int]:
    """Instructions of a span with the attributes of a publish span, and of one with a process span's, and its link."""
    tracer = provider.get_tracer("benchmark")
    carried = SpanContext(1, 1, is_remote=True)

    def publish() -> None:
        attributes = {f"attribute.{number}": "value" for number in range(10)}
        tracer.start_span("publish", kind=SpanKind.PRODUCER, attributes=attributes).end()

    def receive() -> None:
        attributes = {f"attribute.{number}": "value" for number in range(12)}
        tracer.start_span("process", kind=SpanKind.CONSUMER, attributes=attributes, links=[Link(carried)]).end()

    return {f"span of {span.__name__}": min(instructions(span) for _ in range(MESSAGES)) for span in (publish, receive)}


def all_costs(port: int) -> dict[str, dict[str, int]]:
    """Instructions of a message without and with the instrumentation, and of the SDK's span in it."""
    costs = {"raw": message_costs(port)}
    for variant, sampler in (("sampled", ALWAYS_ON), ("unsampled", ALWAYS_OFF)):
        provider = TracerProvider(sampler=sampler)
        instrumentor = PahoMqttInstrumentor()
        instrumentor.instrument(tracer_provider=provider)
        costs[variant] = message_costs(port)
        instrumentor.uninstrument()
        costs[variant] |= span_costs(provider)
    return costs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("port", type=int, help="of an MQTT broker on this machine that takes anyone")
    print(json.dumps(all_costs(parser.parse_args().port)))  # noqa: T201 (its output)
