"""What the instrumentation costs: raw paho against instrumented, on the publish and on the receive side.

QoS 1, handlers that do nothing, Mosquitto on the same cores. "One by one": each message when the one before is
acknowledged. Beside them, what no instrumentation can do without: *user property* is raw paho with one user property in
each message (on the receive side all have it, so that it is raw paho once more and shows the noise), *span* is raw paho
with an SDK span of four attributes for each. *Sampled* has a batch processor whose exporter does nothing, and *with
metrics* a meter provider as well, as zero-code instrumentation does. *By hand* is the limit: the same span, attributes,
injection, extraction and two metric records, written by hand around raw paho.

Each run is a process of its own against one Mosquitto. The variants take turns within a round, and what is reported is
the median over the rounds of the ratio to raw paho in the same round, so that other load on the machine matters little.
Allocations are those of Python and of what it calls, counted by memray: those of a long run less those of a short one.
In the same way Valgrind counts the instructions of the processor, of all threads, for *with metrics* and *by hand*. Two
counts of one program differ by less than 1 %, where CPU times differ by 10 % and more on a machine that others use too.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.result import Result, Table, Target, alternating, median_ratio

MESSAGES, ROUNDS = 3000, 7
# Long enough that what a run allocates once does not count.
SHORT_RUN, LONG_RUN = 300, 900
VARIANTS = ["raw", "user property", "span", "sampled", "unsampled", "no SDK", "with metrics", "by hand"]
TOPIC = "sensors/sensor-001/reading"
OTHER_TOPIC = "sensors/sensor-002/reading"
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


def replace(method: str, wrap: Callable[[Any], Any]) -> None:
    """Wraps a method of paho's client, in this process only."""
    setattr(mqtt.Client, method, wrap(getattr(mqtt.Client, method)))


def with_user_property(original: Any) -> Any:
    """What any propagation costs: one user property."""

    def publish(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, "properties": traced_properties()})

    return publish


def with_span(tracer: Any, original: Any) -> Any:
    """What any tracing costs: one span of four attributes."""

    def method(*args: Any, **kwargs: Any) -> Any:
        with tracer.start_as_current_span("message", attributes={"a": "b", "c": "d", "e": "f", "g": 1}):
            return original(*args, **kwargs)

    return method


def traced_properties() -> Properties:
    """One user property, with a trace context."""
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("traceparent", TRACEPARENT)]
    return properties


def prepare(variant: str, port: int) -> None:
    """Sets up what a variant needs."""
    if variant == "raw":
        return
    if variant == "user property":
        replace("publish", with_user_property)
        return
    from opentelemetry import metrics, trace
    from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

    from benchmarks.by_hand import ByHand

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    example = None if variant != "by hand" else one_message(port)
    if variant != "no SDK":
        provider = TracerProvider(sampler=ALWAYS_OFF if variant == "unsampled" else ALWAYS_ON)
        provider.add_span_processor(BatchSpanProcessor(Nowhere()))
        trace.set_tracer_provider(provider)
        if variant == "span":
            for method in ("publish", "_handle_on_message"):
                replace(method, partial(with_span, provider.get_tracer("benchmark")))
            return
    if variant in ("with metrics", "by hand"):
        metrics.set_meter_provider(MeterProvider(metric_readers=[InMemoryMetricReader()]))
    if example is not None:
        by_hand = ByHand(*example)
        for method in ("publish", "_do_on_publish", "_handle_pubackcomp", "_handle_on_message"):
            replace(method, getattr(by_hand, method.lstrip("_")))
    else:
        PahoMqttInstrumentor().instrument()


def one_message(port: int) -> Any:
    """What the instrumentation records for one message: its two spans, and its metrics."""
    from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, reader, provider = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    PahoMqttInstrumentor().instrument(tracer_provider=provider, meter_provider=MeterProvider(metric_readers=[reader]))
    subscribed, received = threading.Event(), threading.Event()
    with connected(port, on_message=lambda *_: received.set()) as client:
        client.on_subscribe = lambda *_: subscribed.set()
        client.subscribe(OTHER_TOPIC, 1)
        subscribed.wait(10)
        client.publish(OTHER_TOPIC, PAYLOAD, qos=1).wait_for_publish(10)
        received.wait(10)
    data = reader.get_metrics_data()
    PahoMqttInstrumentor().uninstrument()
    spans = {span.kind.name: span for span in exporter.get_finished_spans()}
    return spans["PRODUCER"], spans["CONSUMER"], data, {OTHER_TOPIC: TOPIC}


@contextmanager
def connected(
    port: int, client_id: str = "", clean_start: bool = False, on_message: Any = None, receive_maximum: int = 65_535
) -> Iterator[mqtt.Client]:
    """A client that is connected, to a session that outlives the connection."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
    answered = threading.Event()
    client.on_connect = lambda *_: answered.set()
    client.on_message = on_message
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 60
    properties.ReceiveMaximum = receive_maximum
    client.connect("127.0.0.1", port, clean_start=clean_start, properties=properties)
    client.loop_start()
    answered.wait(10)
    yield client
    client.disconnect()
    client.loop_stop()


def publish(port: int, count: int, properties: Properties | None = None) -> tuple[float, float]:
    """Publishes with QoS 1 until all is acknowledged; returns seconds of time and of CPU time."""
    with connected(port) as client:
        acknowledged = threading.Semaphore(0)
        client.on_publish = lambda *_: acknowledged.release()
        started, cpu_started = time.perf_counter(), time.process_time()
        for _ in range(count):
            client.publish(TOPIC, PAYLOAD, qos=1, properties=properties)
        for _ in range(count):
            acknowledged.acquire()
        return time.perf_counter() - started, time.process_time() - cpu_started


def publish_one_by_one(port: int, count: int, properties: Properties | None = None) -> tuple[float, float]:
    """Publishes with QoS 1, each message when the one before is acknowledged; returns as :func:`publish`."""
    with connected(port) as client:
        started, cpu_started = time.perf_counter(), time.process_time()
        for _ in range(count):
            client.publish(TOPIC, PAYLOAD, qos=1, properties=properties).wait_for_publish()
        return time.perf_counter() - started, time.process_time() - cpu_started


def receive(port: int, count: int, receive_maximum: int = 65_535) -> tuple[float, float]:
    """Receives; returns seconds of time and of CPU time from the first to the last message."""
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
    with connected(port, "receiver", on_message=on_message, receive_maximum=receive_maximum):
        done.wait(60)
    (started, cpu_started), (ended, cpu_ended) = times
    return ended - started, cpu_ended - cpu_started


def receive_one_by_one(port: int, count: int) -> tuple[float, float]:
    """Receives each message when the one before is acknowledged; returns as :func:`receive`."""
    return receive(port, count, receive_maximum=1)


SIDES = {
    "publish one by one": publish_one_by_one,
    "receive one by one": receive_one_by_one,
    "publish flat out": publish,
    "receive flat out": receive,
}


def run(
    side: str, variant: str, port: int, count: int, allocations: bool = False, below: Sequence[str] = ()
) -> list[float]:
    """One run in a process of its own. This process, with raw paho, publishes before what that one receives.

    Args:
        side: One of ``SIDES``.
        variant: One of ``VARIANTS``.
        port: The broker's.
        count: Of messages.
        allocations: Count them instead of taking the time.
        below: The command that runs the process.

    Returns:
        Seconds of time and of CPU time, or the number of allocations.
    """
    if side.startswith("receive"):
        with connected(port, "receiver", clean_start=True) as client:
            client.subscribe(TOPIC, 1)
        publish(port, count, traced_properties())
    options = ["--allocations"] if allocations else []
    command = [*below, sys.executable, "-m", "benchmarks.library", side, variant, str(port), str(count), *options]
    # Else the order of sets differs from one process to the next.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=True, env=environment)
    return json.loads(done.stdout)


@contextmanager
def mosquitto() -> Iterator[int]:
    """A broker on a free port."""
    from benchmarks.stacks import listens
    from harness import free_ports

    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "mosquitto.conf"
        configuration.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nlog_dest none\n"
            "max_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\n"
        )
        with subprocess.Popen(["mosquitto", "-c", str(configuration)]) as process:
            pause = threading.Event()
            while not listens(port):
                pause.wait(0.01)
            yield port
            process.terminate()


def count_allocations(measured: Callable[[], object]) -> int:
    """How often memory is allocated while something runs."""
    import memray

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "allocations"
        with memray.Tracker(file, trace_python_allocators=True):
            measured()
        return memray.FileReader(file).metadata.total_allocations


def allocations_per_message(side: str, variant: str, port: int) -> float:
    """How often memory is allocated for one message."""
    (short,), (long,) = (run(side, variant, port, count, allocations=True) for count in (SHORT_RUN, LONG_RUN))
    return (long - short) / (LONG_RUN - SHORT_RUN)


def instructions_per_message(side: str, variant: str, port: int) -> float:
    """How many instructions the processor executes for one message."""
    counts: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        options = ["--cache-sim=no", "--branch-sim=no", "--cachegrind-out-file=/dev/null", f"--log-file={log}"]
        for count in (SHORT_RUN, LONG_RUN):
            run(side, variant, port, count, below=["valgrind", "--tool=cachegrind", *options])
            counts += [int(found.replace(",", "")) for found in re.findall(r"I\s+refs:\s+([\d,]+)", log.read_text())]
    short, long = counts
    return (long - short) / (LONG_RUN - SHORT_RUN)


def count_instructions(port: int) -> tuple[Table, dict[str, float]]:
    """Those of the instrumentation and those by hand on each side; the second ÷ the first."""
    counts = {
        side: [instructions_per_message(side, variant, port) for variant in ("with metrics", "by hand")]
        for side in SIDES
    }
    ratios = {side: by_hand / ours for side, (ours, by_hand) in counts.items()}
    rows = [[side, *counts[side], ratio] for side, ratio in ratios.items()]
    columns = ["", "with metrics", "by hand", "by hand ÷ with metrics"]
    return Table("Instructions per message", columns, rows), ratios


def compare(side: str, port: int) -> tuple[Table, dict[str, float], float]:
    """All variants on one side; the rate of each ÷ that of raw paho; the CPU time of by hand ÷ that of with metrics."""
    runs = {variant: partial(run, side, variant, port, MESSAGES) for variant in VARIANTS}
    found = alternating(runs, ROUNDS)
    rates = {variant: [MESSAGES / seconds for seconds, _ in outcomes] for variant, outcomes in found.items()}
    cpu = {variant: [seconds / MESSAGES * 1e6 for _, seconds in outcomes] for variant, outcomes in found.items()}
    ratios = {variant: median_ratio(rates[variant], rates["raw"]) for variant in VARIANTS}
    rows = [
        [
            variant,
            statistics.median(rates[variant]),
            ratios[variant],
            statistics.median(cpu[variant]),
            median_ratio(cpu[variant], cpu["raw"]),
            allocations_per_message(side, variant, port),
        ]
        for variant in VARIANTS
    ]
    limit = median_ratio(cpu["by hand"], cpu["with metrics"])
    columns = ["", "messages/s", "rate ÷ raw", "CPU µs per message", "CPU ÷ raw", "allocations per message"]
    return Table(f"{side.capitalize()} ({MESSAGES} messages, median of {ROUNDS})", columns, rows), ratios, limit


def benchmark() -> Result:
    """Compares on each side."""
    with mosquitto() as port:
        found = {side: compare(side, port) for side in SIDES}
        instructions, of_instructions = count_instructions(port) if shutil.which("valgrind") else (None, {})
    targets = [
        Target(f"library, {side}, {variant} ÷ raw paho", wanted, found[side][1][variant])
        for side in ("publish one by one", "receive one by one")
        for variant, wanted in (("sampled", 0.85), ("unsampled", 0.95))
    ]
    targets += [
        Target(f"library, {side}, CPU by hand ÷ with metrics", 1.0, limit) for side, (_, _, limit) in found.items()
    ]
    targets += [
        Target(f"library, {side}, instructions by hand ÷ with metrics", 1.0, ratio)
        for side, ratio in of_instructions.items()
    ]
    tables = [table for table, _, _ in found.values()]
    return Result([*tables, instructions] if instructions else tables, targets)


def main() -> None:
    """One run, in the process that is measured."""
    parser = argparse.ArgumentParser(description="Runs one variant and prints what it took.")
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("port", type=int)
    parser.add_argument("messages", type=int)
    parser.add_argument("--allocations", action="store_true", help="count them instead of taking the time")
    arguments = parser.parse_args()
    prepare(arguments.variant, arguments.port)
    measured = partial(SIDES[arguments.side], arguments.port, arguments.messages)
    sys.stdout.write(json.dumps([count_allocations(measured)] if arguments.allocations else measured()))


if __name__ == "__main__":
    main()
