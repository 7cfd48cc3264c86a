"""The work: sends a reading to echo. If it raises, mqtt-delivery tries again or makes the reading a dead letter."""

import json
import logging
import re
from collections.abc import Sequence
from datetime import datetime

from opentelemetry.metrics import get_meter
from opentelemetry.trace import get_current_span

from consumer.settings import Settings
from mqtt_delivery import Message, check_answer
from service.http import Poster

log = logging.getLogger(__name__)
UUID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
taken_up = get_meter("consumer").create_counter("message_count", "{message}", "Messages that were taken up")


def message_id(message: Message) -> str | None:
    """The reading's ``message_id``."""
    return json.loads(message.payload)["message_id"]


def made_at(message: Message) -> datetime:
    """When the reading was taken, from its payload."""
    return datetime.fromisoformat(json.loads(message.payload)["timestamp"])


class Echo:
    """Sends readings to echo."""

    def __init__(self, settings: Settings) -> None:
        headers = {"Content-Type": "application/json"}
        self._echo = Poster(str(settings.echo_url), headers, settings.workers, settings.echo_timeout_seconds)

    def take(self, message: Message) -> None:
        """Sends one reading. The key is the same for each attempt, so that echo recognises a repetition."""
        taken_up.add(int(message.attempt == 1))
        self._post(message.payload, {"Idempotency-Key": key} if UUID.fullmatch(key := message.id or "") else {})
        get_current_span().add_event("echo.accepted")
        log.info("processed reading %s on %s", message.id, message.topic)

    def take_batch(self, messages: Sequence[Message]) -> None:
        """Sends several readings as a JSON array; if that fails, each is sent alone."""
        self._post(json.dumps([json.loads(message.payload) for message in messages]).encode(), {})
        taken_up.add(len(messages))
        for message in messages:
            log.info("processed reading %s on %s in a batch", message.id, message.topic)

    def _post(self, payload: bytes, headers: dict[str, str]) -> None:
        check_answer(self._echo.post(payload, headers), "echo", is_json=True)
