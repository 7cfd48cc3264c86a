"""FastStream's MQTT with its OpenTelemetry middleware; a handler that is no coroutine runs in a thread."""

import asyncio

import requests
from anyio import to_thread
from faststream import AckPolicy, FastStream
from faststream.mqtt import MQTTBroker, MQTTMessage, QoS
from faststream.mqtt.opentelemetry import MQTTTelemetryMiddleware
from faststream.security import SASLPlaintext

from benchmarks.programs.compared import Work
from consumer.settings import Settings
from service import load_settings


async def main() -> None:
    """Processes the readings of the consumer's session."""
    settings = load_settings(Settings)
    work = Work(settings, requests.Session())
    to_thread.current_default_thread_limiter().total_tokens = settings.workers
    password = settings.mqtt_consumer_password.get_secret_value()
    broker = MQTTBroker(
        f"mqtt://{settings.mqtt_host}:{settings.mqtt_port}",
        client_id="consumer",
        clean_session=False,
        session_expiry_interval=3600,
        # No Receive Maximum: Mosquitto 2.0 exceeds it when a session goes on, and this client disconnects then.
        security=SASLPlaintext(settings.mqtt_consumer_username, password),
        middlewares=[MQTTTelemetryMiddleware()],
    )

    @broker.subscriber(
        settings.topic_filter, qos=QoS.AT_LEAST_ONCE, ack_policy=AckPolicy.ACK, max_workers=settings.workers
    )
    def handle(message: MQTTMessage) -> None:
        work(message.raw_message.topic, message.body)

    await FastStream(broker).run()


if __name__ == "__main__":
    asyncio.run(main())
