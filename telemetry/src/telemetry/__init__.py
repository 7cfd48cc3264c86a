"""Traces, metrics and logs of one service, set up from the standard ``OTEL_*`` variables.

The variables are those of the OpenTelemetry specification (SDK environment variables). The OpenTelemetry distro reads
them; this module adds the stack's defaults, and a shutdown that flushes and cannot hang.
"""

import logging
import os
import threading
from importlib.metadata import version

from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider
from opentelemetry.distro import OpenTelemetryConfigurator, OpenTelemetryDistro
from opentelemetry.instrumentation.logging import LoggingInstrumentor

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s trace_id=%(otelTraceID)s %(message)s"


def setup_telemetry(service_name: str) -> None:
    """Sets the global tracer, meter and logger providers; log records carry trace and span ids from here on.

    Args:
        service_name: ``service.name``, unless ``OTEL_SERVICE_NAME`` says otherwise. The service's distribution must be
            called ``mqtt-tracing-<service_name>``: that is where ``service.version`` comes from.

    Raises:
        SystemExit: If an ``OTEL_*`` variable names something that does not exist.
    """
    os.environ.setdefault("OTEL_SERVICE_NAME", service_name)
    # The HTTP instrumentations still emit the names of before 2023 unless told so.
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
    attributes = {
        "service.namespace": "mqtt-tracing",
        "service.version": version(f"mqtt-tracing-{service_name}"),
    }
    given = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    defaults = ",".join(f"{name}={value}" for name, value in attributes.items())
    # The later of two equal names wins, so what the environment gives beats the defaults.
    os.environ["OTEL_RESOURCE_ATTRIBUTES"] = f"{defaults},{given}".rstrip(",")
    try:
        OpenTelemetryDistro().configure()
        OpenTelemetryConfigurator().configure()
    except (RuntimeError, ValueError) as error:
        raise SystemExit(f"telemetry: {error}; check the OTEL_* variables") from None
    LoggingInstrumentor().instrument(inject_trace_context=True)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)


def shutdown_telemetry(timeout_seconds: float = 3.0) -> None:
    """Sends what is still waiting, for at most ``timeout_seconds`` even if the Collector hangs."""
    providers = (trace.get_tracer_provider(), metrics.get_meter_provider(), get_logger_provider())
    threads = [
        threading.Thread(target=provider.shutdown, daemon=True)  # pyright: ignore[reportAttributeAccessIssue] (the API's type lacks it)
        for provider in providers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_seconds / len(threads))
