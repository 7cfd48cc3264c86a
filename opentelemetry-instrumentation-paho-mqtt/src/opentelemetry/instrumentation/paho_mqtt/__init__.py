# SPDX-License-Identifier: Apache-2.0
"""Instrument `paho-mqtt`_ to trace MQTT messages from their publisher to their subscribers.

.. _paho-mqtt: https://pypi.org/project/paho-mqtt/

Usage
-----

.. code-block:: python

    import paho.mqtt.client as mqtt

    from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor

    PahoMqttInstrumentor().instrument()

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)

``Client.publish`` opens a PRODUCER span, writes its context into the message's MQTT 5 user properties, and closes the
span when the broker has acknowledged the message (QoS 1: PUBACK, QoS 2: PUBCOMP) or, for QoS 0, when it is handed over.
A received message is handled inside a CONSUMER span, a child of the publish span. A message without a usable context
starts a new trace, tagged ``mqtt.missing_context=true``; a retained message is linked to its publish span instead.

MQTT 3.1.1 has no user properties: both spans exist there, in a trace each.

Hooks
-----

``instrument`` takes two hooks, called while the span is open and before the message moves on:

.. code-block:: python

    def publish_hook(span, topic, payload, properties): ...

    def process_hook(span, message): ...

    PahoMqttInstrumentor().instrument(publish_hook=publish_hook, process_hook=process_hook)

API
---
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import wrapt
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.instrumentation.paho_mqtt.package import _instruments
from opentelemetry.instrumentation.paho_mqtt.processing import ProcessHook, wrap_handle_on_message
from opentelemetry.instrumentation.paho_mqtt.propagation import (
    context_to_user_properties,
    has_trace_context,
    user_properties_to_context,
)
from opentelemetry.instrumentation.paho_mqtt.publishing import PublishHook, acknowledged, received, wrap_publish
from opentelemetry.instrumentation.paho_mqtt.version import __version__
from opentelemetry.instrumentation.utils import unwrap
from opentelemetry.trace import get_tracer
from paho.mqtt.client import Client

__all__ = [
    "PahoMqttInstrumentor",
    "ProcessHook",
    "PublishHook",
    "context_to_user_properties",
    "has_trace_context",
    "user_properties_to_context",
]


class PahoMqttInstrumentor(BaseInstrumentor):
    """Instruments ``paho.mqtt.client.Client``; see the module's documentation."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """The versions of paho-mqtt that this works with."""
        return _instruments

    def _instrument(self, **kwargs: Any) -> None:
        tracer = get_tracer(__name__, __version__, kwargs.get("tracer_provider"))
        publish = wrap_publish(tracer, kwargs.get("publish_hook"))
        handle_on_message = wrap_handle_on_message(tracer, kwargs.get("process_hook"))
        wrapt.wrap_function_wrapper(Client, "publish", publish)
        wrapt.wrap_function_wrapper(Client, "_do_on_publish", acknowledged)
        wrapt.wrap_function_wrapper(Client, "_handle_pubrec", received)
        wrapt.wrap_function_wrapper(Client, "_handle_on_message", handle_on_message)

    def _uninstrument(self, **kwargs: Any) -> None:
        for name in ("publish", "_do_on_publish", "_handle_pubrec", "_handle_on_message"):
            unwrap(Client, name)
