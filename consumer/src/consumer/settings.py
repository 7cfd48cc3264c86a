"""The consumer's settings."""

from pathlib import Path
from typing import Literal

import paho.mqtt.client as mqtt
from pydantic import Field, HttpUrl, SecretStr

from service.delivery import ConsumerSettings


class Settings(ConsumerSettings):
    """Each field is the environment variable of the same name in capitals."""

    mqtt_consumer_username: str = "consumer"
    mqtt_consumer_password: SecretStr = SecretStr("consumer-secret")
    mqtt_client_id: str = Field(default="consumer", min_length=1, description="a name that no other client has")
    mqtt_consumer_protocol: Literal["5", "3.1.1"] = Field(default="5", description="5 or 3.1.1")
    echo_url: HttpUrl = Field(default=HttpUrl("http://127.0.0.1:8080/echo"), description="an http:// or https:// URL")
    echo_timeout_seconds: float = Field(default=3.0, gt=0, le=60, description="seconds, up to 60")
    health_file: Path = Field(default=Path("/tmp/consumer.healthy"), description="a path to touch while healthy")  # noqa: S108 (the container's own)

    def new_consumer_client(self, client_id: str, username: str) -> mqtt.Client:
        """Makes a client for the session of this client id."""
        mqtt_5 = self.mqtt_consumer_protocol == "5"
        return self.new_client(client_id, username, self.mqtt_consumer_password, mqtt_5=mqtt_5, session=True)
