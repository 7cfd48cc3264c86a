"""Echo's settings."""

from pydantic_settings import BaseSettings, SettingsConfigDict

from service import Hosts, Port


class Settings(BaseSettings):
    """Each field is the environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(env_ignore_empty=True)

    echo_host: str = "127.0.0.1"
    echo_port: Port = 8080
    echo_allowed_hosts: Hosts = ("127.0.0.1", "localhost", "echo")
