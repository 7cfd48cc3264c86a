"""The consumer's settings."""

from pathlib import Path

from pydantic import Field, HttpUrl, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from service import Port


class Settings(BaseSettings):
    """Each field is the environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(env_ignore_empty=True)

    mqtt_host: str = "127.0.0.1"
    mqtt_port: Port = 1883
    mqtt_consumer_username: str = "consumer"
    mqtt_consumer_password: SecretStr = SecretStr("consumer-secret")
    topic_filter: str = Field(
        default="sensors/+/reading", min_length=1, description="an MQTT topic filter, such as sensors/+/reading"
    )
    echo_url: HttpUrl = Field(
        default=HttpUrl("http://127.0.0.1:8080/echo"), description="a URL, such as http://127.0.0.1:8080/echo"
    )
    health_file: Path = Field(default=Path("/tmp/consumer.healthy"), description="a path to touch while healthy")  # noqa: S108 (the container's own)
