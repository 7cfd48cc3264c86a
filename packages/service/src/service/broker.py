"""The settings and the MQTT client by which a service reaches the broker."""

import logging
import socket
import ssl
import sys
from pathlib import Path
from typing import Any, Literal

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import Field, PrivateAttr, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.settings import Port

log = logging.getLogger(__name__)

# The broker drops a connection that is silent for 1.5 times as long; the client does so after twice as long.
KEEPALIVE_SECONDS = 20


def _no_pass_phrase() -> str:
    raise OSError("its key has a pass phrase")


def _show(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """Sets the certificate that a client shows.

    Raises:
        OSError: A file cannot be read, or the certificate and the key do not match.
    """
    # Without this function, OpenSSL would ask for a pass phrase on the terminal.
    context.load_cert_chain(certificate, key, _no_pass_phrase)


def _send_at_once(client: mqtt.Client, userdata: object, connection: Any) -> None:
    """Turns off Nagle's algorithm, which can hold a packet back for 40 ms; the publish span would show it."""
    # For WebSockets it is an object of paho that wraps the real socket.
    getattr(connection, "_socket", connection).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class BrokerSettings(BaseSettings):
    """The settings of every service that speaks MQTT; each field is the variable of the same name in capitals."""

    model_config = SettingsConfigDict(env_ignore_empty=True)

    mqtt_host: str = "127.0.0.1"
    mqtt_port: Port = 1883
    mqtt_tls: bool = Field(default=False, description="1 or 0")
    mqtt_ca_file: Path | None = Field(
        default=None, description="the path of a PEM file with the authority's certificate"
    )
    mqtt_key_file: Path | None = Field(
        default=None, description="the path of a PEM file with the key of MQTT_CERTIFICATE_FILE, if that has none"
    )
    mqtt_certificate_file: Path | None = Field(
        default=None,
        description="the path of a PEM file with the client's certificate, and its key there or in MQTT_KEY_FILE",
    )
    mqtt_transport: Literal["tcp", "websockets"] = Field(default="tcp", description="tcp or websockets")
    mqtt_websocket_path: str = Field(default="/mqtt", pattern=r"^/[!-~]*$", description="a path that begins with /")
    mqtt_login: Literal["password", "username", "anonymous"] = Field(
        default="password", description="password, username (without a password) or anonymous"
    )
    mqtt_json_envelope: bool = Field(default=False, description="1 or 0")
    health_host: str = "127.0.0.1"
    health_port: Port | None = None

    _tls: ssl.SSLContext = PrivateAttr()
    _certificate: Path | None = PrivateAttr(default=None)

    @field_validator("mqtt_ca_file")
    @classmethod
    def _has_a_certificate(cls, file: Path | None, settings: ValidationInfo) -> Path | None:
        # Without TLS the file is not used.
        if file and settings.data.get("mqtt_tls"):
            try:
                ssl.create_default_context(cafile=file)
            except OSError as error:
                raise ValueError(str(error)) from None
        return file

    @field_validator("mqtt_certificate_file")
    @classmethod
    def _has_a_key(cls, file: Path | None, settings: ValidationInfo) -> Path | None:
        if file and settings.data.get("mqtt_tls"):
            try:
                _show(ssl.create_default_context(), file, settings.data.get("mqtt_key_file"))
            except OSError as error:
                raise ValueError(str(error)) from None
        return file

    def json_envelope(self, *topic_filters: str) -> tuple[str, ...]:
        """The filters of the topics whose JSON payloads carry the trace context; none unless ``MQTT_JSON_ENVELOPE``."""
        return topic_filters if self.mqtt_json_envelope else ()

    def new_client(
        self,
        client_id: str,
        username: str,
        password: SecretStr,
        *,
        certificate: Path | None = None,
        mqtt_5: bool = True,
        session: bool = False,
    ) -> mqtt.Client:
        """Makes a client that is not connected yet; once connected, it reconnects whenever the connection is lost.

        Args:
            client_id: Its client id, to which the session at the broker belongs.
            username: Its user at the broker.
            password: The user's password.
            certificate: With TLS, a PEM file with its key and certificate; ``mqtt_certificate_file`` if not given.
            mqtt_5: Whether it speaks MQTT 5; else MQTT 3.1.1, which has no user properties.
            session: For MQTT 3.1.1: whether the broker keeps its session while it is not connected. With MQTT 5 this is
                set when it connects.
        """
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=mqtt.MQTTv5 if mqtt_5 else mqtt.MQTTv311,
            clean_session=None if mqtt_5 else not session,
            transport=self.mqtt_transport,
        )
        client.ws_set_options(self.mqtt_websocket_path)
        if self.mqtt_login != "anonymous":
            client.username_pw_set(username, password.get_secret_value() if self.mqtt_login == "password" else None)
        client.reconnect_delay_set(min_delay=1, max_delay=30)
        client.on_socket_open = _send_at_once
        client.on_connect_fail = self._say_why
        if self.mqtt_tls:
            self._tls = ssl.create_default_context(cafile=self.mqtt_ca_file)
            self._certificate = certificate or self.mqtt_certificate_file
            client.tls_set_context(self._tls)
            client.on_pre_connect = self._load_certificates
        return client

    def _say_why(self, client: mqtt.Client, userdata: object) -> None:
        """Logs why there is no connection, because paho tries again without logging the reason."""
        # paho calls this while it handles the error.
        error = sys.exception()
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = f"its certificate is not trusted: {error.verify_message}"
        else:
            reason = str(error)
        log.error("cannot connect to the broker at %s:%d, trying again: %s", client.host, client.port, reason)

    def _load_certificates(self, client: mqtt.Client, userdata: object) -> None:
        """Loads the authority and the certificate from their files again, because both may have been renewed."""
        try:
            if self.mqtt_ca_file:
                self._tls.load_verify_locations(self.mqtt_ca_file)
        except OSError as error:
            log.error("MQTT_CA_FILE cannot be read: %s", error)
        try:
            if self._certificate:
                _show(self._tls, self._certificate, self.mqtt_key_file)
        except OSError as error:
            log.error("the certificate %s cannot be read: %s", self._certificate, error)
