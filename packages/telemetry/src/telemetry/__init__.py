"""Sets up the traces, metrics and logs of a service from the standard ``OTEL_*`` variables.

The variables are those of the OpenTelemetry specification (SDK environment variables). The OpenTelemetry distro reads
them; this module adds the stack's defaults, and a shutdown that flushes and cannot hang.
"""

import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from opentelemetry import baggage, metrics, trace
from opentelemetry._logs import get_logger_provider
from opentelemetry.context import attach, detach, get_current
from opentelemetry.distro import OpenTelemetryConfigurator, OpenTelemetryDistro
from opentelemetry.instrumentation.logging import LoggingInstrumentor
from opentelemetry.instrumentation.system_metrics import SystemMetricsInstrumentor
from opentelemetry.processor.baggage import BaggageSpanProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s trace_id=%(otelTraceID)s %(message)s"
LOG_CHARACTERS = 4096
"""How much of a record's message is kept, and of each line of a traceback."""
TRACEBACK_LINES = 200
# While an exporter's thread encodes a batch, a thread that comes back from the network waits this long for its turn,
# several times for each message. With Python's default of 5 ms that was most of the slowest messages' time.
SWITCH_INTERVAL_SECONDS = 0.0005


# The baggage entries that become attributes of every span. No others do, because foreign clients are not trusted.
BAGGAGE_ATTRIBUTES = ("sensor.id", "site.id")
PROCESS_METRICS: dict[str, list[str] | None] = {
    "process.cpu.time": ["user", "system"],
    "process.memory.usage": None,
    "process.memory.virtual": None,
    "process.open_file_descriptor.count": None,
    "process.thread.count": None,
}


def _name_operation(span: Span, *_: object) -> None:
    span.set_attribute("messaging.operation.type", "publish")


def _one_line(text: str) -> str:
    """Makes a text from outside safe for the log: escapes line breaks and terminal commands, and limits its length."""
    if len(text) > LOG_CHARACTERS:
        text = f"{text[:LOG_CHARACTERS]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class _Record(logging.LogRecord):
    """A record whose message is one line, on the terminal and in the backend."""

    def getMessage(self) -> str:  # noqa: N802 (logging's own name)
        return _one_line(super().getMessage())


class _Formatter(logging.Formatter):
    """Indents a traceback, so that none of its lines looks like a record."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's own name)
        lines = super().formatException(ei).split("\n")
        if (left_out := len(lines) - TRACEBACK_LINES) > 0:
            lines[TRACEBACK_LINES:] = [f"... ({left_out} more lines)"]
        return "\n".join(f"  {_one_line(line)}" for line in lines)


# Options of the MQTT instrumentation for the guide's four spans and their names; today's conventions differ.
AS_IN_THE_GUIDE = {"publish_hook": _name_operation, "topics_in_span_names": True, "settle_spans": False}


def setup_telemetry(service_name: str, resource: Mapping[str, str] | None = None) -> None:
    """Sets the global tracer, meter and logger providers; log records carry trace and span ids from here on.

    Args:
        service_name: ``service.name``, unless ``OTEL_SERVICE_NAME`` is set. ``service.version`` is the version of the
            distribution ``mqtt-tracing-<service_name>``.
        resource: More resource attributes; ``OTEL_RESOURCE_ATTRIBUTES`` overrides them.

    Raises:
        SystemExit: If an ``OTEL_*`` variable names something that does not exist.
    """
    os.environ.setdefault("OTEL_SERVICE_NAME", service_name)
    # Without this the HTTP instrumentations still use the attribute names from before 2023.
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
    attributes = {
        "service.namespace": "mqtt-tracing",
        "service.version": version(f"mqtt-tracing-{service_name}"),
        **(resource or {}),
    }
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    defaults = ",".join(f"{name}={value}" for name, value in attributes.items())
    # The last of two equal names wins, so the environment overrides the defaults.
    os.environ["OTEL_RESOURCE_ATTRIBUTES"] = f"{defaults},{given}".rstrip(",")
    try:
        OpenTelemetryDistro().configure()
        OpenTelemetryConfigurator().configure()
    except (RuntimeError, ValueError) as error:
        raise SystemExit(f"telemetry: {error}; check the OTEL_* variables") from None
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.add_span_processor(BaggageSpanProcessor(lambda name: name in BAGGAGE_ATTRIBUTES))
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    SystemMetricsInstrumentor(config=PROCESS_METRICS).instrument()
    logging.setLogRecordFactory(_Record)
    LoggingInstrumentor().instrument(inject_trace_context=True)
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(LOG_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


@contextmanager
def carrying_baggage(entries: Mapping[str, str]) -> Iterator[None]:
    """Sets baggage for the spans that start inside: it is propagated with the trace to every service on its way."""
    context = get_current()
    for name, value in entries.items():
        context = baggage.set_baggage(name, value, context)
    token = attach(context)
    try:
        yield
    finally:
        detach(token)


def shutdown_telemetry(timeout_seconds: float = 3.0) -> None:
    """Exports the telemetry that still waits, for at most ``timeout_seconds`` even if the Collector hangs."""
    providers = (trace.get_tracer_provider(), metrics.get_meter_provider(), get_logger_provider())
    threads = [
        threading.Thread(target=provider.shutdown, daemon=True)  # pyright: ignore[reportAttributeAccessIssue] (the API's type lacks it)
        for provider in providers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_seconds / len(threads))
