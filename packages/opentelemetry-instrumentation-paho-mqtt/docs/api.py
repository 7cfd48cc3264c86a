# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Writes API.md from the docstrings; with ``--check`` only says whether it is current."""

import argparse
import inspect
import sys
from pathlib import Path
from typing import Any

from opentelemetry.instrumentation import paho_mqtt

TARGET = Path(__file__).parents[1] / "API.md"
DOCUMENTED = [
    paho_mqtt.PahoMqttInstrumentor,
    paho_mqtt.PahoMqttInstrumentor.instrument_client,
    paho_mqtt.PahoMqttInstrumentor.uninstrument_client,
    paho_mqtt.process_span,
    paho_mqtt.process_batch,
    paho_mqtt.message_links,
    paho_mqtt.context_to_user_properties,
    paho_mqtt.user_properties_to_context,
    paho_mqtt.has_trace_context,
    paho_mqtt.TraceContextLevel1Propagator,
    paho_mqtt.span_context_to_bytes,
    paho_mqtt.bytes_to_span_context,
]


def entry(thing: Any) -> str:
    """The heading, signature and docstring of a class or function."""
    if inspect.isclass(thing):
        signature = f"class {thing.__name__}"
    else:
        # Annotations are strings in the source; the signature shows them without their quotes.
        signature = f"{thing.__qualname__}{inspect.signature(thing)}".replace("'", "")
    return f"## {thing.__qualname__}\n\n```text\n{signature}\n\n{inspect.getdoc(thing)}\n```\n"


def main() -> int:
    """Writes or checks the file; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, fail if the file is not current")
    arguments = parser.parse_args()
    head = "# API\n\nWritten from the docstrings by `docs/api.py`.\n"
    text = "\n".join([head, *(entry(thing) for thing in DOCUMENTED)])
    if not arguments.check:
        TARGET.write_text(text)
    elif not TARGET.exists() or TARGET.read_text() != text:
        sys.stderr.write("API.md is not current; run docs/api.py\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
