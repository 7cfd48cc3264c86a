"""The settings of a service that is a device of the fleet."""

from pathlib import Path
from typing import Literal, Self

import paho.mqtt.client as mqtt
from pydantic import Field, SecretStr, model_validator

from service.broker import BrokerSettings
from service.settings import Port


class DeviceSettings(BrokerSettings):
    """Each field is the environment variable of the same name in capitals."""

    mqtt_client_certificates: bool = Field(default=False, description="1 or 0")
    mqtt_device_port: Port = 8883
    mqtt_device_certificates: Path = Field(default=Path("/certificates/devices"), description="a folder")
    mqtt_protocol: Literal["5", "3.1.1"] = Field(default="5", description="5 or 3.1.1")

    @property
    def broker(self) -> tuple[str, int]:
        """Host and port where devices connect."""
        return self.mqtt_host, self.mqtt_device_port if self.mqtt_client_certificates else self.mqtt_port

    def new_device_client(self, client_id: str, username: str, password: SecretStr) -> mqtt.Client:
        """Makes a client that logs in as a device: with its password, or with the certificate of this user name."""
        certificate = self.mqtt_device_certificates / f"{username}.pem" if self.mqtt_client_certificates else None
        return self.new_client(client_id, username, password, certificate=certificate, mqtt_5=self.mqtt_protocol == "5")

    @model_validator(mode="after")
    def _shows_its_certificate_over_tls(self) -> Self:
        if self.mqtt_client_certificates and not self.mqtt_tls:
            raise ValueError("MQTT_CLIENT_CERTIFICATES is 1, which needs MQTT_TLS=1")
        return self
