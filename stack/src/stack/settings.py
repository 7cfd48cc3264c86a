"""The stack's settings: the environment, then ``.env``, then the defaults that ``.env.example`` documents."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self, cast, get_args

from pydantic import AfterValidator, Field, HttpUrl, SecretStr, StringConstraints, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service import Listed, Port
from service.partitions import A_NUMBER_OF_PARTITIONS, MOST_PARTITIONS

ROOT = Path(__file__).parents[3]
# The variables that env.sh has set in this shell, as NAME=value separated by spaces. They do not count as set by the
# user, because .env may have changed since.
LOADED = "MQTT_TRACING_LOADED"
for _name, _, _value in (entry.partition("=") for entry in os.environ.pop(LOADED, "").split()):
    if os.environ.get(_name) == _value:
        del os.environ[_name]
MOST_CONSUMERS = 16

# They are in lines of the broker's files, where a colon or a line break would end them.
Username = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$"), Field(description="1 to 64 letters, digits, _ . or -")
]


def _fits_the_brokers_file(password: SecretStr) -> SecretStr:
    # A colon ends a password in the broker's file before it is hashed, a line break ends the line.
    if not password.get_secret_value().isprintable() or ":" in password.get_secret_value():
        raise ValueError("has a colon or a line break")
    return password


Password = Annotated[
    SecretStr,
    Field(min_length=1, max_length=128, description="1 to 128 characters without a colon or a line break"),
    AfterValidator(_fits_the_brokers_file),
]
Backend = Literal["jaeger", "zipkin", "prometheus", "grafana", "azuremonitor"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
# The Collector's extra endpoints besides OTLP, and the setting with the port of each.
EXTRAS = {"zipkin": "zipkin_receiver_port", "pprof": "collector_pprof_port", "zpages": "collector_zpages_port"}


def one_of(*names: str) -> AfterValidator:
    """Makes a check that a value, or each of a list, is one of these names."""

    def check(given: tuple[str, ...] | str) -> tuple[str, ...] | str:
        if not {*((given,) if isinstance(given, str) else given)} <= {*names}:
            raise ValueError("unknown")
        return given

    return AfterValidator(check)


def listed(names: Iterable[str]) -> str:
    """Describes a list of these names."""
    return f"names from {', '.join(names)}, with commas between"


def _with_what_they_need(names: tuple[str, ...]) -> tuple[str, ...]:
    # Grafana has no data of its own.
    wanted = {*names, "prometheus"} if "grafana" in names else set(names)
    return tuple(name for name in BACKENDS if name in wanted)


def text_of(value: object) -> str:
    """The value of a setting as text for its environment variable."""
    match value:
        case SecretStr():
            return value.get_secret_value()
        case bool():
            return str(int(value))
        case float():
            return str(value).removesuffix(".0")
        case tuple():
            return ",".join(cast(tuple[str, ...], value))
        case _:
            return str(value)


SCOUT_VARIABLES = ("SCOUT_CLIENT_ID", "SCOUT_CLIENT_SECRET", "SCOUT_TOKEN_URL", "SCOUT_OTLP_ENDPOINT")
# The Collector's port for each protocol, in a container or a pod.
OTLP_PORTS = {"http/protobuf": 4318, "grpc": 4317}
_URL = "an http:// or https:// URL"


class Settings(BaseSettings):
    """Each field is the environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(env_file=ROOT / ".env", env_ignore_empty=True, extra="ignore")

    runtime: Literal["docker", "local", "kubernetes"] | None = Field(
        default=None, description="docker, local or kubernetes"
    )
    run_dir: Path = Field(default=ROOT / ".run", description="a folder for logs and state")

    broker: Literal["mosquitto", "external"] = Field(
        default="mosquitto", description="mosquitto (the stack's own) or external (yours)"
    )
    mqtt_host: str = "127.0.0.1"
    mqtt_port: Port = 1883
    mqtt_transport: Literal["tcp", "websockets"] = Field(default="tcp", description="tcp or websockets")
    mqtt_login: Literal["password", "username", "anonymous"] = Field(
        default="password", description="password, username (without a password) or anonymous"
    )
    mqtt_consumer_client_id: Username = "consumer"
    mqtt_tls: bool = Field(default=False, description="1 or 0")
    mqtt_client_certificates: bool = Field(default=False, description="1 or 0")
    mqtt_device_port: Port = 8883
    mqtt_device_names: Listed[Username] = Field(
        default=(), description="names of letters, digits, _ . or -, with commas between"
    )
    mqtt_max_packet_size: int = Field(
        default=65_536, ge=1024, le=268_435_455, description="a number of bytes, 1024 to 268435455"
    )
    mqtt_max_connections: int = Field(
        default=1000, ge=1, le=1_000_000, description="a number of connections, 1 to 1000000"
    )
    mqtt_max_queued_bytes: int = Field(
        default=67_108_864, ge=1024, le=2**40, description="a number of bytes, 1024 to 1099511627776"
    )
    mqtt_retain: bool = Field(default=False, description="1 or 0")
    otel_exporter_otlp_protocol: Literal["http/protobuf", "grpc"] = Field(
        default="http/protobuf", description="http/protobuf or grpc"
    )
    otlp_grpc_port: Port = 4317
    otlp_http_port: Port = 4318
    echo_port: Port = 8080
    viewer_port: Port = 8000
    viewer_otlp_grpc_port: Port = 24317
    viewer_otlp_http_port: Port = 24318
    issuer_port: Port = 9000
    gateway_port: Port = 14318
    gateway_health_port: Port = 13134
    collector_health_port: Port = 13133
    collector_metrics_port: Port = 8888
    collector_pprof_port: Port = 1777
    collector_zpages_port: Port = 55679

    zipkin_receiver_port: Port = 9411
    collector_prometheus_port: Port = 8889
    jaeger_port: Port = 16686
    zipkin_port: Port = 9412
    prometheus_port: Port = 9090
    grafana_port: Port = 3000

    mqtt_producer_username: Username = "producer"
    mqtt_producer_password: Password = SecretStr("producer-secret")
    mqtt_consumer_username: Username = "consumer"
    mqtt_consumer_password: Password = SecretStr("consumer-secret")
    mqtt_operator_username: Username = "operator"
    mqtt_operator_password: Password = SecretStr("operator-secret")

    scout_client_id: str | None = None
    scout_client_secret: SecretStr | None = None
    scout_token_url: HttpUrl | None = Field(default=None, description=_URL)
    scout_otlp_endpoint: HttpUrl | None = Field(default=None, description=_URL)
    scout_environment: str = "local"
    backends: Annotated[Listed[str], one_of(*BACKENDS), AfterValidator(_with_what_they_need)] = Field(
        default=(), description=listed(BACKENDS)
    )
    collector_extras: Annotated[Listed[str], one_of(*EXTRAS)] = Field(default=(), description=listed(EXTRAS))
    applicationinsights_connection_string: SecretStr | None = None
    tail_sampling_percentage: float | None = Field(
        default=None, ge=0, le=100, description="the percentage of ordinary traces to keep, 0 to 100"
    )
    local_scout_client_id: str = "local-collector"
    local_scout_client_secret: Password = SecretStr("local-collector-secret")
    issuer_token_seconds: int = Field(default=600, ge=1, le=86_400, description="seconds, 1 to 86400")

    devices: int = Field(default=3, ge=1, le=100_000, description="a number of sensors, 1 to 100000")
    interval_seconds: float = Field(default=2.0, ge=0.01, le=86_400, description="seconds, 0.01 to 86400")
    consumers: int = Field(default=1, ge=1, le=MOST_CONSUMERS, description="a number of consumers, 1 to 16")
    partitions: int | None = Field(default=None, ge=1, le=MOST_PARTITIONS, description=A_NUMBER_OF_PARTITIONS)
    collector_debug_verbosity: Literal["basic", "normal", "detailed"] = Field(
        default="basic", description="basic, normal or detailed"
    )

    @property
    def local_scout(self) -> bool:
        """True if the local Scout replaces the real one."""
        return self.scout_client_id is None

    @property
    def own_broker(self) -> bool:
        """True if the stack runs a broker."""
        return self.broker == "mosquitto"

    @property
    def tls_folder(self) -> Path:
        """The folder of the broker's certificates in the local runtime."""
        return self.run_dir / "certificates"

    @property
    def certified(self) -> list[str]:
        """The broker's users that have a certificate: the producer, which simulates devices, and the devices."""
        return [self.mqtt_producer_username, f"{self.mqtt_producer_username}-once", *self.mqtt_device_names]

    @property
    def broker_address(self) -> str:
        """The broker's URL for this machine."""
        return f"{'mqtts' if self.mqtt_tls else 'mqtt'}://{self.mqtt_host}:{self.mqtt_port}"

    def variables(self) -> dict[str, str]:
        """The settings that have a value, as environment variables."""
        fields = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name.upper(): text_of(value) for name, value in fields if value is not None}

    def ports(self) -> dict[str, int]:
        """The variable name and the number of each port on which the stack listens."""
        off = {f"{backend}_port" for backend in BACKENDS if backend not in self.backends}
        off |= {port for extra, port in EXTRAS.items() if extra not in self.collector_extras}
        off |= set() if self.mqtt_client_certificates else {"mqtt_device_port"}
        off |= set() if self.own_broker else {"mqtt_port"}
        if not self.local_scout:
            off |= {name for name in type(self).model_fields if name.startswith(("viewer", "issuer", "gateway"))}
        names = [name for name in type(self).model_fields if name.endswith("_port") and name not in off]
        return {name.upper(): getattr(self, name) for name in names}

    @property
    def otlp_port(self) -> int:
        """The Collector's port for what the services send."""
        return self.otlp_grpc_port if self.otel_exporter_otlp_protocol == "grpc" else self.otlp_http_port

    def addresses(self) -> dict[str, str]:
        """The stack's addresses for programs on this machine: each port, and the Collector's endpoint for the SDK."""
        ports = {name.upper(): str(getattr(self, name)) for name in type(self).model_fields if name.endswith("_port")}
        return {**ports, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.otlp_grpc_port}"}

    @model_validator(mode="after")
    def _scout_is_whole(self) -> Self:
        missing = [name for name in SCOUT_VARIABLES if getattr(self, name.lower()) is None]
        if missing and len(missing) < len(SCOUT_VARIABLES):
            given = [name for name in SCOUT_VARIABLES if name not in missing]
            raise ValueError(
                f"{', '.join(missing)} not set, but {', '.join(given)}: "
                f"give all four to send to Scout, or none to use the local Scout"
            )
        return self

    @model_validator(mode="after")
    def _fits_the_broker(self) -> Self:
        if not self.own_broker:
            if self.mqtt_client_certificates:
                raise ValueError(
                    "MQTT_CLIENT_CERTIFICATES is 1, which needs BROKER=mosquitto; see MQTT_CERTIFICATE_FILE"
                )
            return self
        own = {"mqtt_host": ("127.0.0.1", "localhost")}
        for name in ("mqtt_host", "mqtt_transport", "mqtt_login", "mqtt_consumer_client_id"):
            value = getattr(self, name)
            if value not in own.get(name, (type(self).model_fields[name].default,)):
                raise ValueError(f"{name.upper()} is {value}, which needs BROKER=external")
        return self

    @model_validator(mode="after")
    def _devices_are_nobody_else(self) -> Self:
        if self.mqtt_client_certificates and not self.mqtt_tls:
            raise ValueError("MQTT_CLIENT_CERTIFICATES is 1, which needs MQTT_TLS=1")
        services = (self.mqtt_producer_username, self.mqtt_consumer_username, self.mqtt_operator_username)
        for name in self.mqtt_device_names:
            if any(name == service or name.startswith(f"{service}-") for service in services):
                raise ValueError(f"MQTT_DEVICE_NAMES has {name}, a user that is there; give the device another name")
        return self

    @model_validator(mode="after")
    def _azure_monitor_has_an_address(self) -> Self:
        if "azuremonitor" in self.backends and self.applicationinsights_connection_string is None:
            raise ValueError("APPLICATIONINSIGHTS_CONNECTION_STRING not set, but BACKENDS has azuremonitor")
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        taken: dict[int, str] = {}
        for name, port in self.ports().items():
            if port in taken:
                raise ValueError(f"{taken[port]} and {name} are both {port}; give each part a port of its own")
            taken[port] = name
        return self
