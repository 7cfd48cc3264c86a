# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""The package as it is published: the content of the wheel, and that it works in a new environment."""

import subprocess
import sys
import textwrap
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.instrumentation.paho_mqtt.package import _instruments
from opentelemetry.instrumentation.paho_mqtt.version import __version__
from packaging.requirements import Requirement
from uv import find_uv_bin

PACKAGE = Path(__file__).parents[1]
METADATA = distribution("opentelemetry-instrumentation-paho-mqtt").metadata


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [
        find_uv_bin(),
        "--quiet",
        "build",
        "--no-build-isolation",
        "--python",
        sys.executable,
        "--out-dir",
        str(folder),
    ]
    subprocess.run([*build, str(PACKAGE)], check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_extra_names_what_is_instrumented():
    requirements = [Requirement(requirement) for requirement in METADATA.get_all("Requires-Dist") or ()]
    (extra,) = [one for one in requirements if one.marker is not None]
    (wanted,) = map(Requirement, _instruments)
    assert (extra.name, extra.specifier) == (wanted.name, wanted.specifier)


def test_the_sdk_is_no_dependency():
    assert not [name for name in METADATA.get_all("Requires-Dist") or () if "sdk" in name]


def test_the_entry_point_is_the_instrumentor():
    (entry_point,) = distribution(METADATA["Name"]).entry_points.select(group="opentelemetry_instrumentor")
    assert entry_point.name == "paho_mqtt"
    assert entry_point.load() is PahoMqttInstrumentor


def test_the_wheel_holds_a_namespace_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert f"-{__version__}-" in wheel.name
    assert "opentelemetry/instrumentation/paho_mqtt/py.typed" in names
    assert not {"opentelemetry/__init__.py", "opentelemetry/instrumentation/__init__.py"} & set(names)
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_the_wheel_works_in_an_environment_of_its_own(wheel, tmp_path):
    uv = [find_uv_bin(), "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([*uv, "pip", "install", "--python", python, f"{wheel}[instruments]"], check=True)
    program = textwrap.dedent("""
        import importlib.util

        import paho.mqtt.client as mqtt
        from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor, process_span

        assert importlib.util.find_spec("opentelemetry.sdk") is None
        PahoMqttInstrumentor().instrument()
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        client.on_message = lambda *_: print("handled")
        client.publish("topic", qos=1)
        client._handle_on_message(mqtt.MQTTMessage(topic=b"topic"))
        with process_span(mqtt.MQTTMessage(topic=b"topic")):
            pass
        PahoMqttInstrumentor().uninstrument()
    """)
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("handled\n", "")
