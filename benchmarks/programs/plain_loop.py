"""What comparable samples do: each reading goes to echo from the network thread, one at a time, with no tracing."""

import json
import logging
import os

import paho.mqtt.client as mqtt
import requests
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.programs.stopwatch import Stopwatch
from consumer.settings import Settings
from service import load_settings

log = logging.getLogger(__name__)


def main() -> None:
    """Processes ``READINGS`` readings of the consumer's session."""
    settings = load_settings(Settings)
    session = requests.Session()
    client = settings.new_client("consumer", settings.mqtt_consumer_username, settings.mqtt_consumer_password)
    stopwatch = Stopwatch(int(os.environ["READINGS"]), then=client.disconnect)

    def on_message(client: mqtt.Client, userdata: None, message: mqtt.MQTTMessage) -> None:
        payload = bytes(message.payload)
        identifier = json.loads(payload)["message_id"]
        headers = {"Content-Type": "application/json", "Idempotency-Key": identifier}
        response = session.post(str(settings.echo_url), data=payload, headers=headers, timeout=3)
        response.raise_for_status()
        json.loads(response.content)
        log.info("processed reading %s on %s", identifier, message.topic)
        # paho acknowledges the reading when this function returns.
        stopwatch.tick()

    client.on_message = on_message
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600
    properties.ReceiveMaximum = settings.queue_size
    client.connect(settings.mqtt_host, settings.mqtt_port, clean_start=False, properties=properties)
    client.loop_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main()
