"""What the programs that are compared have in common: the work, its session, and the count of the readings."""

import json
import logging
import os

import requests
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.metrics import get_meter
from opentelemetry.trace import get_current_span
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.programs.stopwatch import Stopwatch
from consumer.settings import Settings
from telemetry import setup_telemetry

log = logging.getLogger(__name__)


class Work:
    """Sends readings to echo, as the consumer does, and stops the program after ``READINGS`` of them.

    Args:
        settings: The consumer's settings.
        session: What to make requests with: a session, or ``requests`` itself for a connection for each.
    """

    def __init__(self, settings: Settings, session: requests.Session | None = None) -> None:
        setup_telemetry("consumer")
        RequestsInstrumentor().instrument()
        self._url = str(settings.echo_url)
        self._post = requests.post if session is None else session.post
        self._taken_up = get_meter("consumer").create_counter("message_count", "{message}")
        # The telemetry that still waits is not part of the work.
        self._stopwatch = Stopwatch(int(os.environ["READINGS"]), then=lambda: os._exit(0))

    def __call__(self, topic: str, payload: bytes) -> None:
        """Processes one reading, in the process span of its library."""
        identifier = json.loads(payload)["message_id"]
        self._taken_up.add(1)
        headers = {"Content-Type": "application/json", "Idempotency-Key": identifier}
        response = self._post(self._url, data=payload, headers=headers, timeout=3)
        response.raise_for_status()
        json.loads(response.content)
        get_current_span().add_event("echo.accepted")
        log.info("processed reading %s on %s", identifier, topic)
        self._stopwatch.tick()


def connect_properties(settings: Settings) -> Properties:
    """A session that outlives its connection, with the consumer's Receive Maximum."""
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600
    properties.ReceiveMaximum = settings.queue_size
    return properties
