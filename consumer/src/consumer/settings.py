"""The consumer's settings."""

from pathlib import Path
from typing import Any, Literal

import paho.mqtt.client as mqtt
from pydantic import Field, HttpUrl, SecretStr

from service import BrokerSettings, Listed


class Settings(BrokerSettings):
    """Each field is the environment variable of the same name in capitals."""

    mqtt_consumer_username: str = "consumer"
    mqtt_consumer_password: SecretStr = SecretStr("consumer-secret")
    mqtt_client_id: str = Field(default="consumer", min_length=1, description="a name that no other client has")
    mqtt_heartbeat: bool = Field(default=True, description="1 or 0")
    mqtt_consumer_protocol: Literal["5", "3.1.1"] = Field(default="5", description="5 or 3.1.1")
    topic_filter: str = Field(default="sensors/+/reading", min_length=1, description="an MQTT topic filter")
    consumers: int = Field(default=1, ge=1, description="a number of consumers, 1 or more")
    share_name: str = Field(
        default="consumers",
        pattern=r"^[^/+#\x00-\x1f\x7f]{1,100}$",
        description="1 to 100 characters without / + # or a control character",
    )
    echo_url: HttpUrl = Field(default=HttpUrl("http://127.0.0.1:8080/echo"), description="an http:// or https:// URL")
    echo_timeout_seconds: float = Field(default=3.0, gt=0, le=60, description="seconds, up to 60")
    retry_seconds: float = Field(default=60.0, ge=0, le=86_400, description="seconds, 0 to 86400")
    workers: int = Field(default=4, ge=1, le=64, description="a number of threads, 1 to 64")
    queue_size: int = Field(default=200, ge=1, le=65_535, description="a number of messages, 1 to 65535")
    mqtt_max_packet_size: int = Field(
        default=65_536, ge=1024, le=268_435_455, description="a number of bytes, 1024 to 268435455"
    )
    max_topic_bytes: int = Field(default=1024, ge=1, le=65_535, description="a number of bytes, 1 to 65535")
    max_user_properties: int = Field(default=100, ge=0, le=100_000, description="a number of properties, 0 to 100000")
    trust_trace_context: bool = Field(default=True, description="1 or 0")
    baggage_keys: Listed[str] = Field(default=(), description="keys of baggage entries, with commas between")
    batch_size: int = Field(default=1, ge=1, le=1000, description="a number of messages, 1 to 1000")
    batch_seconds: float = Field(default=0.2, ge=0, le=60, description="seconds, 0 to 60")
    remembered_ids: int = Field(default=10_000, ge=0, le=1_000_000, description="a number of ids, 0 to 1000000")
    silent_seconds: float = Field(default=60.0, gt=0, le=3600, description="seconds, up to 3600")
    health_file: Path = Field(default=Path("/tmp/consumer.healthy"), description="a path to touch while healthy")  # noqa: S108 (the container's own)

    def new_consumer_client(self, client_id: str, username: str) -> mqtt.Client:
        """Makes a client for the session of that name."""
        mqtt_5 = self.mqtt_consumer_protocol == "5"
        return self.new_client(client_id, username, self.mqtt_consumer_password, mqtt_5=mqtt_5, session=True)

    @property
    def trust(self) -> dict[str, Any]:
        """Options of the instrumentation: whether process spans join the trace that a message names."""
        if self.trust_trace_context:
            return {}
        return {"process_links": True, "baggage_keys": self.baggage_keys}
