"""One consumer: its parts, put together, and its life from the first connection to the last."""

import logging

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from consumer.acknowledgements import Acknowledgements
from consumer.dead_letters import DeadLetters
from consumer.echo import Echo
from consumer.measurements import Measurements
from consumer.processing import Processor
from consumer.settings import Settings
from consumer.subscription import Subscription
from consumer.workers import Workers
from service import StopSignal

log = logging.getLogger(__name__)


class Consumer:
    """Processes the readings of one session at the broker.

    Args:
        settings: How it works.
        client_id: The name of its session.
        stop: Ends it; what it has not done stays with the broker.
        measurements: What it counts.
    """

    def __init__(self, settings: Settings, client_id: str, stop: StopSignal, measurements: Measurements) -> None:
        self._settings = settings
        self._client_id = client_id
        self._stop = stop
        self._client = settings.new_client(
            client_id, settings.mqtt_consumer_username, settings.mqtt_consumer_password, manual_ack=True
        )
        self._acknowledgements = Acknowledgements(self._client)
        dead_letters = DeadLetters(self._client, stop)
        echo = Echo(settings, stop)
        processor = Processor(self._client, echo, dead_letters, self._acknowledgements, measurements)
        self._workers = Workers(settings.workers, processor.handle, settings.batch_size, settings.batch_seconds)
        self._subscription = Subscription(settings, self._client, self._workers, self._acknowledgements)

    def run(self) -> None:
        """Consumes until told to stop."""
        self._subscription.connect()
        while not self._stop.wait(1.0):
            if self._subscription.healthy:
                self._settings.health_file.touch()
            elif self._client.is_connected() and self._subscription.silent:
                log.critical(
                    "nothing comes from the broker although the connection stands; stopping to be started again"
                )
                self._stop.exit_code = 1
                return
        # What is here is finished; the broker keeps the rest for the next start.
        self._subscription.stop_accepting()
        self._workers.stop(timeout_seconds=self._settings.echo_timeout_seconds)
        self._disconnect()

    def leave(self) -> None:
        """Leaves the share, processes what the session still holds, and ends the session."""
        self._subscription.leave()
        while not self._subscription.left:
            if self._stop.wait(0.05):
                log.error("told to stop: the session of %s goes on, with what it holds", self._client_id)
                self._stop.exit_code = 1
                break
        self._subscription.stop_accepting()
        self._workers.stop(timeout_seconds=self._settings.echo_timeout_seconds)
        self._disconnect(end_session=self._subscription.left)

    def _disconnect(self, end_session: bool = False) -> None:
        properties = Properties(PacketTypes.DISCONNECT)
        if end_session:
            properties.SessionExpiryInterval = 0
        self._client.disconnect(properties=properties)
        self._client.loop_stop()
