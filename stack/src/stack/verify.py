"""``make verify``: sends one reading through the stack and checks its trace in the backend."""

import json
import re
import subprocess
import time
from dataclasses import dataclass
from typing import assert_never

from rich.text import Text

from service.partitions import reading_topic
from stack.collector_metrics import SCOUT_EXPORTER, CollectorMetrics, collector_metrics
from stack.console import console, errors
from stack.contract import BrokenHopError, first_break, is_whole_batch, without_new_services
from stack.errors import StackError
from stack.parts import scout_values
from stack.prometheus import prometheus_value
from stack.runtime import Runtime
from stack.runtimes import alone
from stack.settings import Backend, Settings
from stack.trace import Span, TraceBackend, roots
from stack.trace_backends import Jaeger, Zipkin
from stack.tree import tree
from stack.viewer import Viewer

DEVICE = "sensor-001"
TRACE_SECONDS = 15.0
METRIC_SECONDS = 40.0
PUBLISH_SECONDS = 20.0


@dataclass(frozen=True)
class Reading:
    """A published reading."""

    trace_id: str
    message_id: str
    # Nanoseconds since 1970.
    published: int


def verify(runtime: Runtime, settings: Settings, backend: Backend | None = None) -> int:
    """Sends one reading and checks its trace; returns the exit code.

    Args:
        runtime: The runtime in which the stack runs.
        settings: The stack's settings.
        backend: One of BACKENDS to query; None queries Scout, or the local Scout.

    Raises:
        StackError: If the Collector or the backend does not answer.
    """
    try:
        look(runtime, settings, backend)
    except BrokenHopError as broken:
        errors.print(Text.assemble((f"broken at {broken.hop}:", "red"), f" {broken.problem}"))
        errors.print(Text("\n".join(filter(None, (broken.hint, *stopped(runtime))))))
        return 1
    except StackError as error:
        raise StackError("\n".join((str(error), *stopped(runtime)))) from None
    return 0


def stopped(runtime: Runtime) -> list[str]:
    """A line for each part that does not run."""
    return [
        f"{part} is {state}: `make up` starts it, `make logs PART={part}` shows its log."
        for part, state in runtime.away().items()
    ]


def look(runtime: Runtime, settings: Settings, backend: Backend | None) -> None:
    """Sends one reading and looks for it; arguments as for ``verify``.

    Raises:
        BrokenHopError: If its trace is not whole in time.
    """
    # Without the Collector no telemetry arrives anywhere.
    metrics = collector_metrics(settings)
    match backend:
        case "zipkin":
            in_trace_backend(Zipkin(settings.zipkin_port), runtime, settings)
        case "jaeger":
            in_trace_backend(Jaeger(settings.jaeger_port), runtime, settings)
        case "prometheus":
            in_prometheus(runtime, settings, backend, settings.prometheus_port)
        case "grafana":
            in_prometheus(runtime, settings, backend, settings.grafana_port)
        case "azuremonitor":
            by_counters(runtime, settings, metrics, "azure_monitor", "Azure Monitor")
        case None if not settings.local_scout:
            by_counters(runtime, settings, metrics, SCOUT_EXPORTER, "Scout")
        case None:
            in_trace_backend(Viewer(settings.viewer_port), runtime, settings)
        case _:
            assert_never(backend)


def publish(runtime: Runtime, settings: Settings) -> Reading:
    """Publishes one reading through the producer's own code.

    Raises:
        BrokenHopError: If the broker did not acknowledge it.
    """
    hint = (
        "Is the broker healthy (make ps), and does it know the user and the password? See make logs PART=mosquitto; "
        "with BROKER=external, at your broker's."
    )
    try:
        # One at a time: they share a client id.
        with alone(settings.run_dir / "once", "Another command is sending a reading"):
            published = time.time_ns()
            done = runtime.run_once(PUBLISH_SECONDS)
    except subprocess.TimeoutExpired:
        raise BrokenHopError("producer → Mosquitto", "the producer did not end in time", hint) from None
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()[-3:]
        raise BrokenHopError("producer → Mosquitto", "; ".join(said) or "the producer failed", hint)
    line = json.loads(done.stdout.splitlines()[-1])
    return Reading(line["trace_id"], line["message_id"], published)


def in_trace_backend(backend: TraceBackend, runtime: Runtime, settings: Settings) -> None:
    """Waits until a backend has the whole trace of a reading, or that of its batch.

    Raises:
        BrokenHopError: If the trace is not whole in time.
    """
    reading = publish(runtime, settings)
    deadline = time.monotonic() + TRACE_SECONDS
    while True:
        spans = backend.trace(reading.trace_id)
        found = first_break(spans, reading_topic(DEVICE, settings.partitions), reading.message_id)
        batch = batch_of(backend, spans, reading) if found else []
        if not found or batch or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    if spans:
        console.print(tree(spans))
    if batch:
        (process,) = roots(batch)
        console.print(tree(batch))
        how = f"in a batch of {len(process.links)}" if len(process.links) > 1 else "in a trace that is linked to it"
        console.print(
            f"One reading, processed {how}, "
            f"by the span {process.name} in trace {process.trace_id}: {backend.page(process.trace_id)}"
        )
    elif found:
        if isinstance(backend, Viewer):
            found = (
                explain_lost_context(backend, reading) or found
                if spans
                else explain_no_export(runtime.log_text("collector"), settings)
            )
        raise explain_waiting(runtime, found)
    else:
        console.print(f"One reading, one trace: {backend.page(reading.trace_id)}")


def batch_of(backend: TraceBackend, spans: list[Span], reading: Reading) -> list[Span]:
    """The trace of the batch in which the reading was processed, if any; it has a link to the publish span."""
    spans = without_new_services(spans)
    if [span.kind for span in spans] != ["Producer"]:
        return []
    for trace_id in backend.linking_trace_ids(reading.trace_id, reading.published, time.time_ns()):
        batch = backend.trace(trace_id)
        if is_whole_batch(batch, spans[0]):
            return batch
    return []


def in_prometheus(runtime: Runtime, settings: Settings, who: str, port: int) -> None:
    """Waits until a reading has been counted in Prometheus, asked itself or through Grafana.

    Raises:
        BrokenHopError: If it has not been counted in time.
    """
    counted = "sum(message_count_total)"
    before = prometheus_value(who, port, counted)
    publish(runtime, settings)
    # The services export metrics every few seconds, and Prometheus scrapes them every few seconds.
    deadline = time.monotonic() + METRIC_SECONDS
    while (now := prometheus_value(who, port, counted)) <= before:
        if time.monotonic() > deadline:
            hint = "Is COLLECTOR_PROMETHEUS_PORT what Prometheus fetches from (its page /targets tells)?"
            raise BrokenHopError("Collector → Prometheus", f"{counted} stays at {before:g}", hint)
        time.sleep(0.5)
    console.print(f"Prometheus has counted the reading: {counted} rose from {before:g} to {now:g}.")


def by_counters(runtime: Runtime, settings: Settings, metrics: CollectorMetrics, exporter: str, place: str) -> None:
    """Waits until the Collector has delivered a reading's spans to a backend that cannot be queried.

    Raises:
        BrokenHopError: If it has not delivered them in time.
    """
    before = metrics.total("exporter_sent_spans", exporter=exporter)
    reading = publish(runtime, settings)
    deadline = time.monotonic() + TRACE_SECONDS
    while (delivered := collector_metrics(settings).total("exporter_sent_spans", exporter=exporter) - before) < 4:
        if time.monotonic() > deadline:
            raise explain_no_export(runtime.log_text("collector"), settings)
        time.sleep(0.1)
    console.print(f"The Collector has delivered {delivered} spans to {place}.")
    console.print(f"Look up this trace in {place}: {reading.trace_id}")


def explain_no_export(log: str, settings: Settings) -> BrokenHopError:
    """Explains from the Collector's log why it has delivered nothing."""
    hint = (
        "Nothing reaches Scout: verify the four SCOUT_* values and that the token endpoint is reachable; "
        "make logs PART=collector shows the Collector's own messages."
    )
    words = log.replace('\\"', "'")
    refusals: list[str] = re.findall(r'"error": "([^"]*(?:oauth2|\b401\b|Unauthorized)[^"]*)', words)
    if refusals:
        return BrokenHopError("Collector → Scout", f"authentication failed: {refusals[-1]}", hint)
    token_url = scout_values(settings)["SCOUT_TOKEN_URL"]
    return BrokenHopError("Collector → Scout", f"no span of the reading arrived (token endpoint: {token_url})", hint)


def explain_lost_context(viewer: Viewer, reading: Reading) -> BrokenHopError | None:
    """Finds out whether the reading was processed in a separate trace."""
    elsewhere = viewer.trace_ids(reading.published, time.time_ns(), ("messaging.message.id", reading.message_id))
    for trace_id in elsewhere:
        for span in viewer.trace(trace_id) if trace_id != reading.trace_id else []:
            if span.attributes.get("mqtt.missing_context"):
                return BrokenHopError(
                    "Mosquitto → consumer",
                    f"the process span is the root of another trace, {trace_id}, with mqtt.missing_context=true",
                    "Producer and consumer trace ids do not match: confirm that both clients connect with "
                    "protocol=MQTTv5, and that nothing between them drops user properties.",
                )
    return None


def explain_waiting(runtime: Runtime, found: BrokenHopError) -> BrokenHopError:
    """Names echo, if the consumer keeps the reading only because echo does not run."""
    echo = {name: state for name, state, _ in runtime.states()}.get("echo", "stopped")
    # The first hop until the failed requests are in the backend, the second after that.
    waiting = found.hop in ("Mosquitto → consumer", "consumer → HTTP")
    if not waiting or echo == "healthy":
        return found
    hint = "make logs PART=consumer shows its attempts."
    return BrokenHopError(
        "consumer → HTTP", f"echo is {echo}; the consumer keeps the reading until echo is healthy", hint
    )
