"""The producer's settings."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from service import Port


class Settings(BaseSettings):
    """Each field is the environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(env_ignore_empty=True)

    mqtt_host: str = "127.0.0.1"
    mqtt_port: Port = 1883
    mqtt_producer_username: str = "producer"
    mqtt_producer_password: SecretStr = SecretStr("producer-secret")
    devices: int = Field(default=3, ge=1, le=100_000, description="a number of sensors, 1 to 100000")
    interval_seconds: float = Field(
        default=2.0, ge=0.01, le=86_400, description="the seconds between two readings of a sensor, 0.01 to 86400"
    )
    health_file: Path = Field(default=Path("/tmp/producer.healthy"), description="a path to touch while healthy")  # noqa: S108 (the container's own)
