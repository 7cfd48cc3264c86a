"""What the instrumentation costs: raw paho against instrumented, on the publish and on the receive side.

Beside them, what no instrumentation can do without: "user properties" is raw paho with one user property in each
message, "span" is raw paho with an SDK span of four attributes for each.

Each run is a process of its own against one Mosquitto. The variants take turns within a round, and what is reported is
the median over the rounds of the ratio to raw paho in the same round, so that other load on the machine matters little.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

VARIANTS = ["raw", "user properties", "span", "sampled", "unsampled", "no SDK"]
TOPIC = "sensors/sensor-001/reading"
PAYLOAD = json.dumps(
    {
        "message_id": str(uuid.UUID(int=0)),
        "device_id": "sensor-001",
        "sequence": 17,
        "timestamp": "2026-01-01T00:00:00Z",
        "temperature_c": 20.5,
        "humidity_pct": 40.1,
    }
)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def add_user_properties() -> None:
    """What any propagation costs: raw paho with one user property."""
    original = mqtt.Client.publish

    def publish_with_user_properties(*args: Any, **kwargs: Any) -> mqtt.MQTTMessageInfo:
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = [("traceparent", TRACEPARENT)]
        return original(*args, **{**kwargs, "properties": properties})

    mqtt.Client.publish = publish_with_user_properties  # type: ignore[method-assign] # in this process only


def add_span(tracer: Any) -> None:
    """What any tracing costs: raw paho with a span of four attributes for each message."""

    def with_span(original: Any) -> Any:
        def method(*args: Any, **kwargs: Any) -> Any:
            with tracer.start_as_current_span("message", attributes={"a": "b", "c": "d", "e": "f", "g": 1}):
                return original(*args, **kwargs)

        return method

    mqtt.Client.publish = with_span(mqtt.Client.publish)  # type: ignore[method-assign] # in this process only
    mqtt.Client._handle_on_message = with_span(mqtt.Client._handle_on_message)  # type: ignore[method-assign]


def instrument(variant: str) -> None:
    """Sets up what a variant needs."""
    if variant == "raw":
        return
    if variant == "user properties":
        return add_user_properties()
    # Imported here: raw paho must not pay for it.
    from opentelemetry import trace  # noqa: PLC0415
    from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON  # noqa: PLC0415

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    if variant != "no SDK":
        provider = TracerProvider(sampler=ALWAYS_OFF if variant == "unsampled" else ALWAYS_ON)
        provider.add_span_processor(BatchSpanProcessor(Nowhere()))
        trace.set_tracer_provider(provider)
        if variant == "span":
            return add_span(provider.get_tracer("benchmark"))
    PahoMqttInstrumentor().instrument()


def connected_client(port: int, client_id: str = "") -> mqtt.Client:
    """A client that is connected, to a session that outlives the connection if it has a name."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
    connected = threading.Event()
    client.on_connect = lambda *_: connected.set()
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 60
    client.connect("127.0.0.1", port, clean_start=not client_id, properties=properties if client_id else None)
    client.loop_start()
    connected.wait(10)
    return client


def publish(port: int, count: int, properties: Properties | None = None) -> tuple[float, float]:
    """Publishes with QoS 1 until all is acknowledged; returns seconds of time and of CPU time."""
    client = connected_client(port)
    acknowledged = threading.Semaphore(0)
    client.on_publish = lambda *_: acknowledged.release()
    started, cpu_started = time.perf_counter(), time.process_time()
    for _ in range(count):
        client.publish(TOPIC, PAYLOAD, qos=1, properties=properties)
    for _ in range(count):
        acknowledged.acquire()
    measured = time.perf_counter() - started, time.process_time() - cpu_started
    client.disconnect()
    client.loop_stop()
    return measured


def publish_one_by_one(port: int, count: int) -> tuple[float, float]:
    """Publishes with QoS 1, each message when the one before is acknowledged; returns as :func:`publish`."""
    client = connected_client(port)
    started, cpu_started = time.perf_counter(), time.process_time()
    for _ in range(count):
        client.publish(TOPIC, PAYLOAD, qos=1).wait_for_publish()
    measured = time.perf_counter() - started, time.process_time() - cpu_started
    client.disconnect()
    client.loop_stop()
    return measured


def receive(port: int, count: int) -> tuple[float, float]:
    """Receives what waits at the broker; returns seconds of time and of CPU time from the first to the last message."""
    times: list[tuple[float, float]] = []
    done = threading.Event()

    def on_message(*_: Any) -> None:
        nonlocal received
        received += 1
        if received in (1, count):
            times.append((time.perf_counter(), time.process_time()))
        if received == count:
            done.set()

    received = 0
    mqtt.Client.on_message = on_message  # type: ignore[assignment] # set before the session hands out what waits
    client = connected_client(port, "receiver")
    done.wait(60)
    client.disconnect()
    client.loop_stop()
    (started, cpu_started), (ended, cpu_ended) = times
    return ended - started, cpu_ended - cpu_started


def fill_session(port: int, count: int) -> None:
    """Makes the broker hold messages for the receiver."""
    client = connected_client(port, "receiver")
    subscribed = threading.Event()
    client.on_subscribe = lambda *_: subscribed.set()
    client.subscribe(TOPIC, 1)
    subscribed.wait(10)
    client.disconnect()
    client.loop_stop()
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("traceparent", TRACEPARENT)]
    publish(port, count, properties)


def empty_session(port: int) -> None:
    """Makes the broker forget the receiver."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="receiver", protocol=mqtt.MQTTv5)
    client.connect("127.0.0.1", port, clean_start=True)
    client.loop()
    client.disconnect()


@contextmanager
def mosquitto() -> Iterator[int]:
    """A broker on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "mosquitto.conf"
        configuration.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nlog_dest none\n"
            "max_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\n"
        )
        with subprocess.Popen(["mosquitto", "-c", str(configuration)]) as process:  # noqa: S603, S607 (the broker)
            pause = threading.Event()
            while not accepts_connections(port):
                pause.wait(0.01)
            yield port
            process.terminate()


def accepts_connections(port: int) -> bool:
    """Whether something listens."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def run(side: str, variant: str, port: int, count: int) -> tuple[float, float]:
    """One run in a process of its own."""
    if side == "receive":
        empty_session(port)
        fill_session(port, count)
    command = [sys.executable, __file__, "--run", side, variant, str(port), "--messages", str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 (this script)
    seconds, cpu_seconds = json.loads(done.stdout)
    return seconds, cpu_seconds


SIDES = {"publish": publish, "one by one": publish_one_by_one, "receive": receive}


def write(line: str) -> None:
    """A line of output, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Runs all variants and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=5000, help="messages in a run")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each variant")
    parser.add_argument("--side", choices=SIDES, action="append", help="all by default")
    parser.add_argument("--run", nargs=3, metavar=("SIDE", "VARIANT", "PORT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        side, variant, port = arguments.run
        instrument(variant)
        write(json.dumps(SIDES[side](int(port), arguments.messages)))
        return
    write("| side | variant | messages/s | µs of CPU per message | rate ÷ raw | CPU ÷ raw |")
    write("| --- | --- | --- | --- | --- | --- |")
    with mosquitto() as port:
        for side in arguments.side or SIDES:
            rounds = [
                {variant: run(side, variant, port, arguments.messages) for variant in VARIANTS}
                for _ in range(arguments.rounds)
            ]
            for variant in VARIANTS:
                rate = statistics.median(arguments.messages / result[variant][0] for result in rounds)
                cpu = statistics.median(result[variant][1] / arguments.messages * 1e6 for result in rounds)
                rate_ratio = statistics.median(result["raw"][0] / result[variant][0] for result in rounds)
                cpu_ratio = statistics.median(result[variant][1] / result["raw"][1] for result in rounds)
                write(f"| {side} | {variant} | {rate:,.0f} | {cpu:.0f} | {rate_ratio:.2f} | {cpu_ratio:.2f} |")


if __name__ == "__main__":
    main()
