"""Each kind of connection that users need, to a Mosquitto with a listener for each kind."""

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from pydantic import SecretStr

from service import BrokerSettings, load_settings, refusals

PASSWORD = SecretStr("right")


@dataclass(frozen=True)
class Broker:
    folder: Path
    plain: int
    websockets: int
    certificates: int

    def file(self, name: str) -> Path:
        return self.folder / name


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def make_certificates(folder: Path) -> None:
    """Makes an authority, the broker's certificate, and a client's, also in one file together with its key."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority", "-days", "2")
    for name, subject in (("server", "127.0.0.1"), ("client", "device-7")):
        signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-days", "2", "-addext", f"subjectAltName=IP:{'127.0.0.1'}")
        openssl(
            "req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={subject}", *signed
        )
    (folder / "both.pem").write_text((folder / "client.crt").read_text() + (folder / "client.key").read_text())
    openssl("ec", "-in", "client.key", "-aes128", "-passout", "pass:phrase", "-out", "locked.key")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("mosquitto")
    make_certificates(folder)
    plain, websockets, certificates = free_ports(3)
    (folder / "passwords").write_text("user:right\n")
    subprocess.run(["mosquitto_passwd", "-U", str(folder / "passwords")], check=True, timeout=60)
    (folder / "mosquitto.conf").write_text(f"""
user root
per_listener_settings true
log_dest file {folder}/log
listener {plain} 127.0.0.1
allow_anonymous true
password_file {folder}/passwords
listener {websockets} 127.0.0.1
protocol websockets
allow_anonymous false
password_file {folder}/passwords
listener {certificates} 127.0.0.1
cafile {folder}/ca.crt
certfile {folder}/server.crt
keyfile {folder}/server.key
require_certificate true
use_identity_as_username true
""")
    with subprocess.Popen([shutil.which("mosquitto") or "mosquitto", "-c", f"{folder}/mosquitto.conf"]) as process:
        deadline = time.monotonic() + 20
        for port in (plain, websockets, certificates):
            while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < deadline:
                threading.Event().wait(0.05)
        yield Broker(folder, plain, websockets, certificates)
        process.terminate()


def connects(settings: BrokerSettings, username: str = "user", **options: Any) -> tuple[str, mqtt.Client]:
    """Connects a client with these settings; returns the broker's answer and the client."""
    client = settings.new_client(f"client-{time.monotonic_ns()}", username, PASSWORD, **options)
    answers: list[str] = []
    answered = threading.Event()

    def on_connect(
        _client: object, _userdata: object, _flags: object, reason_code: object, _properties: object
    ) -> None:
        answers.append(str(reason_code))
        answered.set()

    client.on_connect = on_connect
    client.connect_async(settings.mqtt_host, settings.mqtt_port)
    client.loop_start()
    answered.wait(5)
    client.disconnect()
    client.loop_stop()
    return (answers or ["no answer"])[0], client


def test_with_a_password_a_name_alone_and_neither(broker: Broker) -> None:
    right = BrokerSettings(mqtt_port=broker.plain)
    assert connects(right)[0] == "Success"
    assert connects(right, "stranger")[0] == "Not authorized"
    assert connects(BrokerSettings(mqtt_port=broker.plain, mqtt_login="anonymous"), "stranger")[0] == "Success"
    # This Mosquitto requires a password, so it refuses a user name alone; its log shows that no password came.
    assert connects(BrokerSettings(mqtt_port=broker.plain, mqtt_login="username"))[0] == "Not authorized"
    assert "u'" not in broker.file("log").read_text().splitlines()[-1]


@pytest.mark.parametrize("mqtt_5", [True, False])
def test_through_websockets(broker: Broker, mqtt_5: bool, caplog: pytest.LogCaptureFixture) -> None:
    settings = BrokerSettings(mqtt_port=broker.websockets, mqtt_transport="websockets", mqtt_websocket_path="/any")
    answer, client = connects(settings, mqtt_5=mqtt_5)
    assert answer == "Success"
    assert client.transport == "websockets"
    assert connects(BrokerSettings(mqtt_port=broker.websockets), mqtt_5=mqtt_5)[0] == "no answer"


@pytest.mark.parametrize(("certificate", "key"), [("client.crt", "client.key"), ("both.pem", None)])
def test_with_a_certificate(broker: Broker, certificate: str, key: str | None) -> None:
    tls: dict[str, Any] = {"mqtt_port": broker.certificates, "mqtt_tls": True, "mqtt_ca_file": broker.file("ca.crt")}
    assert connects(BrokerSettings(**tls))[0] == "no answer"
    shown = {"mqtt_certificate_file": broker.file(certificate), "mqtt_key_file": key and broker.file(key)}
    assert connects(BrokerSettings(**tls, **shown, mqtt_login="anonymous"))[0] == "Success"
    assert "u'device-7'" in broker.file("log").read_text()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"MQTT_TRANSPORT": "quic"}, "MQTT_TRANSPORT is 'quic'; it must be tcp or websockets"),
        ({"MQTT_WEBSOCKET_PATH": "mqtt"}, "MQTT_WEBSOCKET_PATH is 'mqtt'; it must be a path that begins with /"),
        ({"MQTT_LOGIN": "no"}, "MQTT_LOGIN is 'no'; it must be password, username (without a password) or anonymous"),
    ],
)
def test_what_is_wrong_is_one_line(given: dict[str, str], line: str) -> None:
    assert list(refusals(BrokerSettings, given).values()) == [line]


@pytest.mark.parametrize("files", [("client.crt", None), ("client.crt", "server.key"), ("client.crt", "locked.key")])
def test_a_certificate_without_its_key_is_one_line(
    broker: Broker, files: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, key = files
    monkeypatch.setenv("MQTT_TLS", "1")
    monkeypatch.setenv("MQTT_CERTIFICATE_FILE", str(broker.file(certificate)))
    if key:
        monkeypatch.setenv("MQTT_KEY_FILE", str(broker.file(key)))
    with pytest.raises(SystemExit, match="2"):
        load_settings(BrokerSettings)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"MQTT_CERTIFICATE_FILE is {str(broker.file(certificate))!r}; it must be the path of a PEM")
    # Without TLS the file is not used.
    monkeypatch.setenv("MQTT_TLS", "0")
    assert load_settings(BrokerSettings).mqtt_certificate_file


def test_no_client_certificate_changes_what_is_trusted() -> None:
    client = BrokerSettings(mqtt_tls=True).new_client("a", "user", PASSWORD)
    context: Any = client._ssl_context
    assert context.verify_mode == ssl.CERT_REQUIRED
