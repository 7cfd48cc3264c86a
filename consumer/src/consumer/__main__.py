"""Continues the trace of each reading, with a process span around the work in ``echo.py``, and in it the request."""

import argparse

from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor

from consumer.cores import keep_to_one_core
from consumer.echo import Echo, made_at, message_id
from consumer.partitions import Partitions
from consumer.settings import Settings
from mqtt_delivery import Consumer
from service import KEEPALIVE_SECONDS, StopSignal, load_settings, serve_health
from telemetry import AS_IN_THE_GUIDE, setup_telemetry, shutdown_telemetry


def new_consumer(settings: Settings, client_id: str, username: str = "") -> Consumer:
    """Makes the consumer of one session: it sends readings to echo one by one, or several with ``BATCH_SIZE``."""
    echo = Echo(settings)
    return Consumer(
        settings.new_consumer_client(client_id, username or settings.mqtt_consumer_username),
        settings.filter_of(client_id),
        echo.take,
        handle_batch=echo.take_batch,
        message_id=message_id,
        made_at=made_at,
        reject=(ValueError,),
        **settings.delivery,
    )


def main() -> int:
    """Consumes until told to stop, or ends sessions with ``--leave``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="consumer", description="Hands readings from MQTT to echo.")
    parser.add_argument(
        "--leave", nargs="+", default=[], metavar="CLIENT_ID[=USER]", help="empty and end these sessions"
    )
    leaving: list[tuple[str, str, str]] = [session.partition("=") for session in parser.parse_args().leave]
    settings, stop = load_settings(Settings), StopSignal()
    if settings.cpu_affinity == "auto":
        keep_to_one_core()
    setup_telemetry("consumer")
    # No process span around the hand-over to a worker: mqtt-delivery opens it around the work.
    PahoMqttInstrumentor().instrument(**AS_IN_THE_GUIDE, **settings.propagation, process_spans=False)
    RequestsInstrumentor().instrument()
    broker = settings.mqtt_host, settings.mqtt_port, KEEPALIVE_SECONDS
    if leaving:
        done = all(new_consumer(settings, name, user).leave(stop, *broker) for name, _, user in leaving)
    else:
        if settings.partitions is None:
            consumer = new_consumer(settings, settings.mqtt_client_id).connect(*broker)
        else:
            sessions = map(settings.session_of, settings.own_partitions)
            consumer = Partitions([new_consumer(settings, *session).connect(*broker) for session in sessions])
        serve_health(settings, consumer)
        done = consumer.run(stop, settings.health_file.touch, settings.echo_timeout_seconds)
    shutdown_telemetry()
    return stop.exit_code if done else 1


if __name__ == "__main__":
    raise SystemExit(main())
