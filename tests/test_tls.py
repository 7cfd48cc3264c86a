"""TLS to the broker: it accepts nothing else, and no client trusts another authority."""

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import certificates
from harness import Stack, eventually


@pytest.fixture(scope="module")
def tls_stack(new_shared_stack: Callable[..., Stack]) -> Stack:
    stack = new_shared_stack(MQTT_TLS="1")
    stack.up()
    return stack


def look_on(stack: Stack, *options: str) -> subprocess.CompletedProcess[str]:
    """Sends a message to itself, as the operator."""
    settings = stack.settings
    login = ["-u", settings.mqtt_operator_username, "-P", settings.mqtt_operator_password.get_secret_value()]
    command = ["mosquitto_rr", *login, *f"-p {settings.mqtt_port} -t health -e health -m x -W 5".split()]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=20, check=False)


def test_one_reading_is_one_trace_over_tls(tls_stack: Stack) -> None:
    done = tls_stack.run("verify")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_client_without_tls_is_refused(tls_stack: Stack) -> None:
    assert look_on(tls_stack).returncode != 0
    authority = str(tls_stack.settings.tls_folder / "ca.crt")
    done = look_on(tls_stack, "--cafile", authority)
    assert done.returncode == 0, done.stderr


def test_a_service_with_another_authority_refuses_the_broker_and_says_so(tls_stack: Stack, tmp_path: Path) -> None:
    certificates.prepare(tmp_path)
    described = json.loads((tls_stack.settings.run_dir / "parts" / "producer.json").read_text())
    environment = described["environment"] | {"MQTT_CA_FILE": str(tmp_path / "ca.crt")}
    command = [*described["command"], "--once"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    # It kept trying.
    assert done.stderr.count("its certificate is not trusted: ") >= 2, done.stderr
    assert "Traceback" not in done.stderr


def test_only_its_owner_can_read_the_key(tls_stack: Stack) -> None:
    key = tls_stack.settings.tls_folder / "server.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.stat().st_uid == os.getuid()


def test_clients_come_back_after_the_authority_is_renewed(tls_stack: Stack) -> None:
    def processed() -> int:
        return tls_stack.runtime.log_text("consumer").count("processed reading")

    running = {name: tls_stack.pid(name) for name in ("producer", "consumer")}
    folder = tls_stack.settings.tls_folder
    former = (folder / "ca.crt").read_bytes()
    eventually(processed)
    tls_stack.stop_part("mosquitto")
    (folder / "server.crt").unlink()
    certificates.prepare(folder)
    assert (folder / "ca.crt").read_bytes() != former
    tls_stack.start_part("mosquitto")
    before = processed()
    eventually(lambda: processed() > before + 5, 60)
    assert {name: tls_stack.pid(name) for name in running} == running
    for name in running:
        log = tls_stack.runtime.log_text(name)
        assert "Traceback" not in log, name
    done = tls_stack.run("verify")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_authority_that_cannot_be_read_any_more_stops_nobody(tls_stack: Stack) -> None:
    authority = tls_stack.settings.tls_folder / "ca.crt"
    running = {name: tls_stack.pid(name) for name in ("producer", "consumer")}
    tls_stack.stop_part("mosquitto")
    (tls_stack.settings.tls_folder / "server.crt").unlink()
    certificates.prepare(tls_stack.settings.tls_folder)
    good = authority.read_bytes()
    authority.write_bytes(b"half a file")
    tls_stack.start_part("mosquitto")
    for name in running:
        eventually(lambda name=name: "MQTT_CA_FILE cannot be read: " in tls_stack.runtime.log_text(name), 60)
    authority.write_bytes(good)
    before = tls_stack.runtime.log_text("consumer").count("processed reading")
    eventually(lambda: tls_stack.runtime.log_text("consumer").count("processed reading") > before + 5, 60)
    assert {name: tls_stack.pid(name) for name in running} == running
