"""The issuer's settings."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from service import Hosts, Port


class Settings(BaseSettings):
    """Each field is the environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(env_ignore_empty=True)

    issuer_host: str = "127.0.0.1"
    issuer_port: Port = 9000
    issuer_allowed_hosts: Hosts = ("127.0.0.1", "localhost", "issuer")
    issuer_url: str = Field(
        default="http://127.0.0.1:9000",
        pattern=r"^https?://\S+[^/]$",
        description="the URL under which others reach the issuer, without a slash at its end",
    )
    issuer_key_file: Path = Field(default=Path("issuer-key.pem"), description="a path for the signing key")
    issuer_audience: str = Field(default="b14collector", min_length=1, description="the audience of the tokens")
    issuer_token_seconds: int = Field(
        default=600, ge=1, le=86_400, description="the life of a token in seconds, 1 to 86400"
    )
    local_scout_client_id: str = "local-collector"
    local_scout_client_secret: SecretStr = SecretStr("local-collector-secret")
