"""A device's certificate identifies it and decides its rights; the devices' listener refuses clients without one."""

import json
import subprocess
from pathlib import Path

import pytest

import certificates
from harness import eventually, reading
from ledger import NewStack, NotingStack

PUMP = "pump-001"


@pytest.fixture(scope="module")
def certified(new_shared_stack: NewStack) -> NotingStack:
    """A stack whose producer has a certificate, and a pump too."""
    stack = new_shared_stack(
        NotingStack, MQTT_TLS="1", MQTT_CLIENT_CERTIFICATES="1", MQTT_DEVICE_NAMES=PUMP, INTERVAL_SECONDS="0.5"
    )
    stack.up()
    return stack


def devices(stack: NotingStack) -> Path:
    return stack.settings.tls_folder / "devices"


def run(stack: NotingStack, program: str, port: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs a client of Mosquitto's."""
    authority = ["--cafile", str(stack.settings.tls_folder / "ca.crt")]
    command = [program, "-V", "mqttv5", "-q", "1", "-p", str(port), *authority, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def as_device(stack: NotingStack, program: str, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs it with a device's certificate."""
    file = str(devices(stack) / f"{name}.pem")
    return run(stack, program, stack.settings.mqtt_device_port, "--cert", file, "--key", file, *options)


def processed(stack: NotingStack) -> int:
    return len(stack.taken.read_text().splitlines())


def test_one_reading_is_one_trace_with_certificates(certified: NotingStack) -> None:
    done = certified.run("verify")
    assert done.returncode == 0, done.stdout + done.stderr
    done = certified.run("doctor")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_device_publishes_its_own_readings_and_no_others(certified: NotingStack) -> None:
    sent = reading(device_id=PUMP)
    message = ["-m", json.dumps(sent)]
    done = as_device(certified, "mosquitto_pub", PUMP, "-t", f"sensors/{PUMP}/reading", *message)
    assert (done.returncode, done.stderr) == (0, "")
    eventually(lambda: str(sent["message_id"]) in certified.taken.read_text())
    for topic in ("sensors/sensor-001/reading", "dead-letter/sensors/pump-001/reading", "$CONTROL/dynamic-security/v1"):
        done = as_device(certified, "mosquitto_pub", PUMP, "-t", topic, *message)
        assert "Not authorized" in done.stderr, topic


def test_a_device_reads_nothing(certified: NotingStack) -> None:
    for topic_filter in ("sensors/+/reading", "$share/consumers/sensors/+/reading", "#"):
        done = as_device(certified, "mosquitto_sub", PUMP, "-t", topic_filter, "-W", "5")
        assert "All subscription requests were denied" in done.stdout + done.stderr, topic_filter


def test_a_device_takes_no_other_session(certified: NotingStack) -> None:
    pid, before = certified.pid("consumer"), processed(certified)
    topic = ["-t", f"sensors/{PUMP}/reading", "-m", json.dumps(reading(device_id=PUMP))]
    done = as_device(certified, "mosquitto_pub", PUMP, "-i", "consumer", *topic)
    assert done.returncode == 0, done.stderr
    # The broker takes it for the pump, whatever client id it sends.
    assert f" as {PUMP} (p5," in certified.runtime.log_text("mosquitto")
    eventually(lambda: processed(certified) > before + 5)
    assert certified.pid("consumer") == pid
    assert "already connected, closing old connection" not in certified.runtime.log_text("mosquitto")


def test_without_its_certificate_nobody_is_a_device(certified: NotingStack, tmp_path: Path) -> None:
    settings = certified.settings
    topic = ["-t", "sensors/sensor-001/reading", "-m", "x"]
    password = ["-u", "producer", "-P", settings.mqtt_producer_password.get_secret_value(), "-i", "producer"]
    for port in (settings.mqtt_port, settings.mqtt_device_port):
        assert run(certified, "mosquitto_pub", port, *password, *topic).returncode != 0
    # A certificate of another authority, with the producer's name.
    certificates.prepare_devices(tmp_path, ["producer"])
    file = str(tmp_path / "producer.pem")
    forged = ["--cert", file, "--key", file]
    assert run(certified, "mosquitto_pub", settings.mqtt_device_port, *forged, *topic).returncode != 0


def test_a_device_goes_on_with_its_renewed_certificate(certified: NotingStack) -> None:
    pid = certified.pid("producer")
    certified.stop_part("mosquitto")
    # Without the authorities' file, the earlier certificates are not trusted any more.
    (devices(certified) / "authorities.crt").unlink()
    for file in devices(certified).glob("*.pem"):
        file.unlink()
    certificates.prepare_devices(devices(certified), certified.settings.certified)
    certified.start_part("mosquitto")
    before = processed(certified)
    eventually(lambda: processed(certified) > before + 5, 60)
    assert certified.pid("producer") == pid
    assert certified.run("verify").returncode == 0


def test_a_former_certificate_is_good_until_it_ends_and_an_unnamed_device_may_do_nothing(
    certified: NotingStack, tmp_path: Path
) -> None:
    former = tmp_path / "pump.pem"
    (devices(certified) / f"{PUMP}.pem").rename(former)
    names = [*certified.settings.certified, "pump-002"]
    assert certificates.prepare_devices(devices(certified), names) == [PUMP, "pump-002"]
    certified.stop_part("mosquitto")
    certified.start_part("mosquitto")
    assert certified.run("up").returncode == 0
    topic = ["-t", f"sensors/{PUMP}/reading", "-m", json.dumps(reading(device_id=PUMP))]
    for file in (former, devices(certified) / f"{PUMP}.pem"):
        shown = ["--cert", str(file), "--key", str(file)]
        done = run(certified, "mosquitto_pub", certified.settings.mqtt_device_port, *shown, *topic)
        assert (done.returncode, done.stderr) == (0, "")
    done = as_device(certified, "mosquitto_pub", "pump-002", "-t", "sensors/pump-002/reading", "-m", "x")
    assert "Not authorized" in done.stderr
