"""The parts of the stack: what each runs, with which settings, and how one sees that it is healthy."""

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from string import Template

from stack.backends import collector_backends, local_backends
from stack.build import collector_for, search_path
from stack.part import Part, answers, beats, local_url
from stack.services import Service, broker_users, new_services
from stack.settings import ROOT, Settings

# Milliseconds. The specification waits 5 s with spans and 60 s with metrics; here somebody looks on.
TELEMETRY_DEFAULTS = {
    "OTEL_BSP_SCHEDULE_DELAY": "500",
    "OTEL_BLRP_SCHEDULE_DELAY": "500",
    "OTEL_METRIC_EXPORT_INTERVAL": "10000",
}


# The one reading of `make verify` is always traced, whatever the sampling of the others.
ALWAYS_SAMPLED = {"OTEL_TRACES_SAMPLER": "always_on"}


def local_parts(settings: Settings, binaries: Mapping[str, Path]) -> list[Part]:
    """All parts of the local runtime, in the order of their start."""
    services = [_mosquitto(settings), _collector(settings, binaries[collector_for(settings)]), *_services(settings)]
    scout = _local_scout(settings, binaries) if settings.local_scout else []
    return sorted([*scout, *local_backends(settings, binaries), *services], key=lambda part: part.wave)


def _mosquitto(settings: Settings) -> Part:
    state = settings.run_dir / "mosquitto"
    # The health check logs in with what start.sh wrote, so that no password is in a process list.
    return Part(
        name="mosquitto",
        command=[str(ROOT / "mosquitto" / "start.sh")],
        environment={
            "PATH": search_path(),
            "MOSQUITTO_STATE": str(state),
            "MOSQUITTO_DATA": str(state / "data"),
            "MQTT_PORT": str(settings.mqtt_port),
            **tls_values(settings),
            "MQTT_PRODUCER_USERNAME": settings.mqtt_producer_username,
            "MQTT_PRODUCER_PASSWORD": settings.mqtt_producer_password.get_secret_value(),
            "MQTT_CONSUMER_USERNAME": settings.mqtt_consumer_username,
            "MQTT_CONSUMER_PASSWORD": settings.mqtt_consumer_password.get_secret_value(),
            "MQTT_OPERATOR_USERNAME": settings.mqtt_operator_username,
            "MQTT_OPERATOR_PASSWORD": settings.mqtt_operator_password.get_secret_value(),
            **broker_users(new_services()),
        },
        reads=frozenset({"MQTT_BIND"}),
        healthy=lambda: _broker_delivers(state),
        wave=1,
        address=settings.broker_address,
    )


def _collector(settings: Settings, otelcol: Path) -> Part:
    return Part(
        name="collector",
        command=[str(ROOT / "collector" / "start.sh")],
        environment={
            "OTELCOL": str(otelcol),
            **scout_values(settings),
            "SCOUT_ENVIRONMENT": settings.scout_environment,
            **collector_backends(settings),
            "OTLP_GRPC_PORT": str(settings.otlp_grpc_port),
            "OTLP_HTTP_PORT": str(settings.otlp_http_port),
            "ZIPKIN_RECEIVER_PORT": str(settings.zipkin_receiver_port),
            "COLLECTOR_HEALTH_PORT": str(settings.collector_health_port),
            "COLLECTOR_METRICS_PORT": str(settings.collector_metrics_port),
            "COLLECTOR_PPROF_PORT": str(settings.collector_pprof_port),
            "COLLECTOR_ZPAGES_PORT": str(settings.collector_zpages_port),
            "COLLECTOR_DEBUG_VERBOSITY": settings.collector_debug_verbosity,
        },
        reads=frozenset({"TAIL_SAMPLING_WAIT", "COLLECTOR_BIND"}),
        healthy=answers(local_url(settings.collector_health_port)),
        wave=3,
        address=f"OTLP gRPC 127.0.0.1:{settings.otlp_grpc_port}, HTTP 127.0.0.1:{settings.otlp_http_port}",
    )


def tls_values(settings: Settings) -> dict[str, str]:
    """What the broker and its clients need for TLS."""
    if not settings.mqtt_tls:
        return {}
    folder = settings.tls_folder
    return {"MQTT_TLS": "1", "MQTT_CA_FILE": str(folder / "ca.crt"), "MQTT_CERTIFICATES": str(folder)}


def scout_values(settings: Settings) -> dict[str, str]:
    """The four values that say where the Collector sends to."""
    if settings.scout_client_id is None or settings.scout_client_secret is None:
        return {
            "SCOUT_CLIENT_ID": settings.local_scout_client_id,
            "SCOUT_CLIENT_SECRET": settings.local_scout_client_secret.get_secret_value(),
            "SCOUT_TOKEN_URL": local_url(settings.issuer_port, "/oauth2/token"),
            "SCOUT_OTLP_ENDPOINT": local_url(settings.gateway_port),
        }
    return {
        "SCOUT_CLIENT_ID": settings.scout_client_id,
        "SCOUT_CLIENT_SECRET": settings.scout_client_secret.get_secret_value(),
        "SCOUT_TOKEN_URL": str(settings.scout_token_url),
        "SCOUT_OTLP_ENDPOINT": str(settings.scout_otlp_endpoint).rstrip("/"),
    }


def _services(settings: Settings) -> list[Part]:
    common = {
        "MQTT_PORT": str(settings.mqtt_port),
        **tls_values(settings),
        "OTEL_EXPORTER_OTLP_ENDPOINT": local_url(settings.otlp_grpc_port),
    }
    producer_beat = settings.run_dir / "producer.healthy"
    return [
        Part(
            name="echo",
            command=[sys.executable, "-m", "echo"],
            environment={**common, "OTEL_SERVICE_NAME": "echo", "ECHO_PORT": str(settings.echo_port)},
            reads=_settings_of("echo"),
            healthy=answers(local_url(settings.echo_port, "/healthz")),
            wave=4,
            address=local_url(settings.echo_port, "/docs"),
        ),
        *(_consumer(settings, common, name) for name in consumer_names(settings.consumers)),
        *(_new_service(settings, common, service) for service in new_services()),
        Part(
            name="producer",
            command=[sys.executable, "-m", "producer"],
            environment={
                **common,
                "OTEL_SERVICE_NAME": "producer",
                "MQTT_PRODUCER_USERNAME": settings.mqtt_producer_username,
                "MQTT_PRODUCER_PASSWORD": settings.mqtt_producer_password.get_secret_value(),
                "DEVICES": str(settings.devices),
                "INTERVAL_SECONDS": str(settings.interval_seconds),
                "HEALTH_FILE": str(producer_beat),
            },
            reads=_settings_of("producer"),
            healthy=beats(producer_beat),
            wave=5,
        ),
    ]


def consumer_names(count: int) -> list[str]:
    """The consumers' parts; their client ids too, so that each finds its session again after a restart."""
    return ["consumer", *(f"consumer-{number}" for number in range(2, count + 1))]


def _consumer(settings: Settings, common: Mapping[str, str], name: str) -> Part:
    beat = settings.run_dir / f"{name}.healthy"
    return Part(
        name=name,
        command=[sys.executable, "-m", "consumer"],
        environment={
            **common,
            "OTEL_SERVICE_NAME": "consumer",
            "MQTT_CLIENT_ID": name,
            "CONSUMERS": str(settings.consumers),
            "MQTT_CONSUMER_USERNAME": settings.mqtt_consumer_username,
            "MQTT_CONSUMER_PASSWORD": settings.mqtt_consumer_password.get_secret_value(),
            "ECHO_URL": local_url(settings.echo_port, "/echo"),
            "HEALTH_FILE": str(beat),
        },
        reads=_settings_of("consumer"),
        healthy=beats(beat),
        wave=4,
    )


def _new_service(settings: Settings, common: Mapping[str, str], service: Service) -> Part:
    beat = settings.run_dir / f"{service.name}.healthy"
    return Part(
        name=service.name,
        command=[sys.executable, "-m", service.module],
        environment={
            **common,
            "OTEL_SERVICE_NAME": service.name,
            **broker_users([service]),
            "HEALTH_FILE": str(beat),
        },
        reads=_settings_of(service.module),
        healthy=beats(beat),
        wave=4,
        defaults={name: Template(value).substitute(settings.ports()) for name, value in service.defaults.items()},
    )


def _settings_of(module: str) -> frozenset[str]:
    return frozenset(map(str.upper, import_module(f"{module}.settings").Settings.model_fields))


def _local_scout(settings: Settings, binaries: Mapping[str, Path]) -> list[Part]:
    issuer_url = local_url(settings.issuer_port)
    return [
        Part(
            name="issuer",
            command=[sys.executable, "-m", "scout_local"],
            environment={
                "ISSUER_PORT": str(settings.issuer_port),
                "ISSUER_URL": issuer_url,
                "ISSUER_KEY_FILE": str(settings.run_dir / "issuer-key.pem"),
                "ISSUER_TOKEN_SECONDS": str(settings.issuer_token_seconds),
                "LOCAL_SCOUT_CLIENT_ID": settings.local_scout_client_id,
                "LOCAL_SCOUT_CLIENT_SECRET": settings.local_scout_client_secret.get_secret_value(),
            },
            reads=_settings_of("scout_local"),
            healthy=answers(f"{issuer_url}/healthz"),
            wave=1,
            address=issuer_url,
        ),
        Part(
            name="gateway",
            command=[
                str(binaries["otelcol-default"]),
                "--config",
                str(ROOT / "backends" / "scout-local" / "gateway.yaml"),
            ],
            environment={
                "ISSUER_URL": issuer_url,
                "GATEWAY_PORT": str(settings.gateway_port),
                "GATEWAY_HEALTH_PORT": str(settings.gateway_health_port),
                "VIEWER_OTLP_ENDPOINT": local_url(settings.viewer_otlp_http_port),
            },
            reads=frozenset({"GATEWAY_BIND"}),
            healthy=answers(local_url(settings.gateway_health_port)),
            # It asks the issuer for its keys when it starts.
            wave=2,
            address=local_url(settings.gateway_port),
        ),
        Part(
            name="viewer",
            command=[
                str(binaries["otel-desktop-viewer"]),
                "--open-browser=false",
                *("--host", "127.0.0.1"),
                *("--browser-port", str(settings.viewer_port)),
                *("--grpc", str(settings.viewer_otlp_grpc_port)),
                *("--http", str(settings.viewer_otlp_http_port)),
            ],
            environment={},
            healthy=answers(local_url(settings.viewer_port)),
            wave=1,
            address=local_url(settings.viewer_port),
        ),
    ]


def _broker_delivers(state: Path) -> bool:
    """Whether the broker lets the operator in and delivers."""
    environment = {**os.environ, "XDG_CONFIG_HOME": str(state)}
    command = ["mosquitto_sub", "-t", "$SYS/broker/uptime", "-C", "1", "-W", "2"]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0
