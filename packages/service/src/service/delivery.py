"""The settings of a service that receives messages with mqtt-delivery."""

from typing import Any

from pydantic import Field

from service.broker import BrokerSettings
from service.partitions import PARTITIONED_READINGS
from service.settings import Listed


class ConsumerSettings(BrokerSettings):
    """Each field is the environment variable of the same name in capitals."""

    topic_filter: str = Field(default="sensors/+/reading", min_length=1, description="an MQTT topic filter")
    consumers: int = Field(default=1, ge=1, description="a number of consumers, 1 or more")
    share_name: str = Field(
        default="consumers",
        pattern=r"^[^/+#\x00-\x1f\x7f]{1,100}$",
        description="1 to 100 characters without / + # or a control character",
    )
    workers: int = Field(default=4, ge=1, le=64, description="a number of threads, 1 to 64")
    retry_seconds: float = Field(default=60.0, ge=0, le=86_400, description="seconds, 0 to 86400")
    queue_size: int = Field(default=200, ge=1, le=65_535, description="a number of messages, 1 to 65535")
    mqtt_max_packet_size: int = Field(
        default=65_536, ge=1024, le=268_435_455, description="a number of bytes, 1024 to 268435455"
    )
    max_topic_bytes: int = Field(default=1024, ge=1, le=65_535, description="a number of bytes, 1 to 65535")
    max_user_properties: int = Field(default=100, ge=0, le=100_000, description="a number of properties, 0 to 100000")
    batch_size: int = Field(default=1, ge=1, le=1000, description="a number of messages, 1 to 1000")
    batch_seconds: float = Field(default=0.2, ge=0, le=60, description="seconds, 0 to 60")
    remembered_ids: int = Field(default=10_000, ge=0, le=1_000_000, description="a number of ids, 0 to 1000000")
    silent_seconds: float = Field(default=60.0, gt=0, le=3600, description="seconds, up to 3600")
    mqtt_heartbeat: bool = Field(default=True, description="1 or 0")
    trust_trace_context: bool = Field(default=True, description="1 or 0")
    baggage_keys: Listed[str] = Field(default=(), description="keys of baggage entries, with commas between")

    @property
    def delivery(self) -> dict[str, Any]:
        """Options of ``mqtt_delivery.Consumer``."""
        same = {"consumers", "share_name", "workers", "retry_seconds", "batch_size", "batch_seconds", "remembered_ids"}
        return {
            **self.model_dump(include=same | {"silent_seconds"}),
            "receive_maximum": self.queue_size,
            "maximum_packet_size": self.mqtt_max_packet_size,
            "maximum_topic_bytes": self.max_topic_bytes,
            "maximum_user_properties": self.max_user_properties,
            "heartbeat": self.mqtt_heartbeat,
        }

    @property
    def propagation(self) -> dict[str, Any]:
        """Options of ``PahoMqttInstrumentor``: where the context is, and whether it is the process span's parent."""
        envelope = {"json_envelope": self.json_envelope(self.topic_filter, PARTITIONED_READINGS)}
        if self.trust_trace_context:
            return envelope
        return {**envelope, "process_links": True, "baggage_keys": self.baggage_keys}
