"""The producer's settings."""

from pathlib import Path
from secrets import token_hex
from typing import Annotated

import paho.mqtt.client as mqtt
from pydantic import Field, SecretStr

from service.device import DeviceSettings
from service.partitions import A_NUMBER_OF_PARTITIONS, MOST_PARTITIONS

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="1 to 64 letters, digits, _ . or -")]


class Settings(DeviceSettings):
    """Each field is the environment variable of the same name in capitals."""

    mqtt_producer_username: str = "producer"
    mqtt_producer_password: SecretStr = SecretStr("producer-secret")
    mqtt_producer_client_id: str = ""
    devices: int = Field(default=3, ge=1, le=100_000, description="a number of sensors, 1 to 100000")
    interval_seconds: float = Field(
        default=2.0, ge=0.01, le=86_400, description="the seconds between two readings of a sensor, 0.01 to 86400"
    )
    partitions: int | None = Field(default=None, ge=1, le=MOST_PARTITIONS, description=A_NUMBER_OF_PARTITIONS)
    buffer_size: int = Field(default=10_000, ge=1, le=1_000_000, description="a number of messages, 1 to 1000000")
    buffer_file: Path | None = Field(default=None, description="a path, in a folder that is there")
    device_id: Identifier = "edge-001"
    fleet_id: Identifier = "fleet-001"
    site_id: Identifier = "site-001"
    health_file: Path = Field(default=Path("/tmp/producer.healthy"), description="a path to touch while healthy")  # noqa: S108 (the container's own)

    def new_producer_client(self, ending: str = "") -> mqtt.Client:
        """Makes a client that logs in as the producer; ``ending`` is appended to its client id."""
        client_id = (self.mqtt_producer_client_id or f"producer-{token_hex(4)}") + ending
        return self.new_device_client(client_id, self.mqtt_producer_username, self.mqtt_producer_password)

    @property
    def resource(self) -> dict[str, str]:
        """Resource attributes of the device that this runs on. It has many sensors, so each span names its sensor."""
        return {"device.id": self.device_id, "fleet.id": self.fleet_id, "site.id": self.site_id}
