# Copyright The OpenTelemetry Authors
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
starts a new trace, with ``mqtt.missing_context=true``. A retained message starts a new trace too, with a link to its
publish span.

One client
----------

.. code-block:: python

    PahoMqttInstrumentor().instrument_client(client)
    PahoMqttInstrumentor().uninstrument_client(client)

Handing messages over
---------------------

If a handler only hands the message over to a thread or an asyncio task, open the process span where the work is done:

.. code-block:: python

    from opentelemetry.instrumentation.paho_mqtt import process_span

    PahoMqttInstrumentor().instrument(process_spans=False)

    def work(message):
        with process_span(message, client=client):
            ...

``process_batch`` does the same for one unit of work on several messages, with a span link to each.

Hooks
-----

``instrument`` takes two hooks. They are called while the span is open, before the message is sent or handled:

.. code-block:: python

    def publish_hook(span, topic, payload, properties): ...

    def process_hook(span, message): ...

    PahoMqttInstrumentor().instrument(publish_hook=publish_hook, process_hook=process_hook)

API
---
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.instrumentation.paho_mqtt import connecting, private, processing, publishing, settling, subscribing
from opentelemetry.instrumentation.paho_mqtt.batch import message_links, process_batch
from opentelemetry.instrumentation.paho_mqtt.binary_format import bytes_to_span_context, span_context_to_bytes
from opentelemetry.instrumentation.paho_mqtt.package import _instruments  # pyright: ignore[reportPrivateUsage] (the conventional name)
from opentelemetry.instrumentation.paho_mqtt.processing import Message, process_span
from opentelemetry.instrumentation.paho_mqtt.propagation import (
    context_to_user_properties,
    has_trace_context,
    user_properties_to_context,
)
from opentelemetry.instrumentation.paho_mqtt.telemetry import (
    Options,
    ProcessHook,
    PublishHook,
    Telemetry,
    assignments,
)
from opentelemetry.instrumentation.paho_mqtt.trace_context_level_1 import TraceContextLevel1Propagator
from opentelemetry.instrumentation.paho_mqtt.version import __version__
from opentelemetry.instrumentation.paho_mqtt.wrapping import WrappedMethod
from paho.mqtt.client import Client, MQTTMessageInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack  # typing has it from Python 3.11 on

__all__ = [
    "Message",
    "Options",
    "PahoMqttInstrumentor",
    "ProcessHook",
    "PublishHook",
    "TraceContextLevel1Propagator",
    "__version__",
    "bytes_to_span_context",
    "context_to_user_properties",
    "has_trace_context",
    "message_links",
    "process_batch",
    "process_span",
    "span_context_to_bytes",
    "user_properties_to_context",
]

_logger = logging.getLogger(__name__)

_UNDER_LOCKS = "spans may end while paho holds a lock"

_METHODS = (
    WrappedMethod(Client, "publish", publishing.publish),
    WrappedMethod(
        Client,
        "_handle_pubackcomp",
        publishing.handle_acknowledgement,
        "publish spans end when the message is handed over, not when it is acknowledged",
    ),
    WrappedMethod(
        Client, "_handle_pubrec", publishing.handle_pubrec, "the refusal of a message with QoS 2 is not seen"
    ),
    WrappedMethod(Client, "_handle_pubrel", publishing.inside_paho, _UNDER_LOCKS),
    WrappedMethod(Client, "_handle_connack", publishing.inside_paho, _UNDER_LOCKS),
    WrappedMethod(Client, "disconnect", publishing.disconnect),
    WrappedMethod(Client, "loop_misc", publishing.loop_misc),
    WrappedMethod(
        Client,
        "_do_on_disconnect",
        publishing.do_on_disconnect,
        "publish spans stay open when a connection ends for good",
    ),
    WrappedMethod(Client, "_handle_on_message", processing.handle_on_message, "there are no process spans"),
    WrappedMethod(MQTTMessageInfo, "wait_for_publish", publishing.wait_for_publish),
    WrappedMethod(Client, "subscribe", subscribing.subscribe, "the filters of subscriptions are no templates"),
    WrappedMethod(Client, "unsubscribe", subscribing.unsubscribe, "filters stay templates after an unsubscribe"),
    WrappedMethod(Client, "ack", settling.ack, "there are no settle spans"),
    WrappedMethod(Client, "connect_async", connecting.connect_async, "a will carries no trace context"),
    WrappedMethod(Client, "_send_connect", connecting.send_connect, "a will carries no trace context"),
)

_lock = threading.Lock()
_wrapped = False


def _wrap_or_unwrap() -> None:
    """Wraps paho's methods if any client has telemetry, and unwraps them otherwise."""
    global _wrapped
    needed = assignments.everyone is not None or assignments.any_single()
    if needed and not _wrapped:
        private.check()
        for method in _METHODS:
            method.put_on()
    elif _wrapped and not needed:
        for method in _METHODS:
            method.take_off()
    _wrapped = needed


class PahoMqttInstrumentor(BaseInstrumentor):
    """Instruments ``paho.mqtt.client.Client``, and so every library that is built on it.

    ``instrument`` and ``instrument_client`` take these options, by keyword:

    tracer_provider, meter_provider
        The providers to use; the global ones if not given.
    publish_hook
        Called as ``publish_hook(span, topic, payload, properties)`` before a message is published.
    process_hook
        Called as ``process_hook(span, message)`` before a message is handled.
    process_spans
        Whether paho's handlers run in a process span; True if not given. Set it to False if they hand messages over,
        and use :func:`process_span` where the messages are processed.
    process_links
        A process span always has a link to the publish span. True: it is a child of the current span, or a root span.
        False: it is a child of the publish span, with a link to the current span if there is one. If not given, it is a
        child of the publish span unless another span is active, as the conventions advise.
    baggage_keys
        The keys of the baggage entries that are accepted from received messages; all if not given.
    destination_templates
        MQTT topic filters. The first that matches a topic becomes its ``messaging.destination.template``. If none
        matches, a received message has the filter of its client's subscription.
    topics_in_span_names
        Whether span names contain the whole topic. False if not given, because topics often contain a device id; span
        names then contain the template of the topic, or only the operation.
    settle_spans
        Whether ``Client.ack`` has a span if the client acknowledges messages itself; True if not given.
    connection_metrics
        Whether there are two more metrics: messages in flight, and connections after a client's first; False if not
        given.
    json_envelope
        MQTT topic filters. On matching topics, JSON objects carry the trace context in the payload if there are no
        user properties: clients with MQTT 3.1.1 write it, all clients read it. None if not given.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """The supported versions of paho-mqtt."""
        return _instruments

    def _instrument(self, **kwargs: Any) -> None:
        telemetry = Telemetry.create(**kwargs)
        with _lock:
            assignments.everyone = telemetry
            _wrap_or_unwrap()

    def _uninstrument(self, **kwargs: Any) -> None:
        """Uninstruments all clients except those that were instrumented one by one."""
        telemetry, assignments.everyone = assignments.everyone, None
        if telemetry is not None:
            publishing.release(telemetry)
        with _lock:
            assignments.forget_exceptions()
            _wrap_or_unwrap()

    @staticmethod
    def instrument_client(client: Client, **options: Unpack[Options]) -> None:
        """Instruments one client with options of its own, whether or not all clients are instrumented.

        Args:
            client: The client.
            **options: See the class.

        Raises:
            TypeError: A single string was given for a list.
        """
        telemetry = Telemetry.create(**options)
        with _lock:
            if assignments.single.get(client, None) is not None:
                _logger.warning("Attempting to instrument a client while already instrumented")
                return
            assignments.single[client] = telemetry
            _wrap_or_unwrap()

    @staticmethod
    def uninstrument_client(client: Client) -> None:
        """Uninstruments one client, even if all clients are instrumented.

        Args:
            client: The client.
        """
        telemetry = assignments.of(client)
        if telemetry is None:
            _logger.warning("Attempting to uninstrument a client while already uninstrumented")
            return
        assignments.single[client] = None
        publishing.release(telemetry, client)
        with _lock:
            if assignments.everyone is None:
                assignments.forget_exceptions()
            _wrap_or_unwrap()


def _forked() -> None:
    """Makes a new lock: a thread that does not exist in this process may have held the old one at the fork."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
