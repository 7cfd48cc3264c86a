# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""If a private name of paho-mqtt is missing, only the features that need it are off, and there is one warning."""

import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt
import paho.mqtt.client as mqtt
import pytest
from opentelemetry.instrumentation import paho_mqtt
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor, private

METHODS = [method.name for method in paho_mqtt._METHODS if method.name.startswith("_")]
ATTRIBUTES = sorted(private._LOST_WITHOUT)

# Publishes and receives with each QoS, raises in a callback, and disconnects with a message in flight.
PROGRAM = textwrap.dedent("""
    import sys
    import threading

    import paho.mqtt.client as mqtt
    from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    PahoMqttInstrumentor().instrument(tracer_provider=provider)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="one", protocol=mqtt.MQTTv5)
    client.suppress_exceptions = True
    subscribed, received = threading.Event(), threading.Semaphore(0)

    def on_message(client, userdata, message):
        received.release()
        raise LookupError

    client.on_message = on_message
    client.on_connect = lambda client, *_: client.subscribe("#", 2)
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("127.0.0.1", int(sys.argv[1]))
    client.loop_start()
    assert subscribed.wait(20)
    for qos in (0, 1, 2):
        client.publish("topic", "x", qos).wait_for_publish(20)
        assert received.acquire(timeout=20)
    client.disconnect()
    client.loop_stop()
    client.publish("topic", "x", 1)
    PahoMqttInstrumentor().uninstrument()
    print(sorted(span.name for span in exporter.get_finished_spans()))
""")


@pytest.fixture(autouse=True)
def no_memory_of_what_is_missing() -> Iterator[None]:
    private._missing.clear()
    yield
    private._missing.clear()


@pytest.mark.parametrize("name", [*METHODS, *ATTRIBUTES])
def test_a_version_of_paho_in_which_a_name_is_another_one(broker, tmp_path, name):
    folder = Path(paho.mqtt.__file__).parent
    shutil.copytree(folder, tmp_path / "paho" / "mqtt")
    (tmp_path / "paho" / "__init__.py").touch()
    for file in (tmp_path / "paho").rglob("*.py"):
        file.write_text(re.sub(rf"\b{name}\b", f"_renamed{name}", file.read_text()))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(broker.port)],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (warning,) = done.stderr.splitlines()
    assert warning.startswith(f"paho-mqtt {paho.mqtt.__version__} has no Client.{name}: ")
    spans = ["process #"] * 3 if name != "_handle_on_message" else []
    assert done.stdout.strip() == str([*spans, *["publish"] * 4])


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_name_that_is_gone_at_run_time(connect, spans, topic, inbox, caplog, monkeypatch, name):
    present = mqtt.Client.__getattribute__

    def getattribute(client: mqtt.Client, attribute: str) -> Any:
        if attribute == name and sys._getframe(1).f_globals["__name__"] == private.__name__:
            raise AttributeError(name=attribute, obj=client)
        return present(client, attribute)

    client = connect(topic, on_message=inbox)
    client.suppress_exceptions = True
    monkeypatch.setattr(mqtt.Client, "__getattribute__", getattribute)
    for qos in (0, 1, 2):
        client.publish(topic, str(qos), qos).wait_for_publish(20)
    inbox.wait_for(3)
    client.disconnect()
    client.loop_stop()
    spans.processed(3)
    assert spans.started == 6
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("opentelemetry")]
    assert len(warnings) <= 1
    assert all(f"Client.{name}: " in warning for warning in warnings)
    PahoMqttInstrumentor().uninstrument()


def test_instrumenting_where_no_client_can_be_made(instrument, monkeypatch, caplog):
    monkeypatch.setattr(private, "Client", None)
    instrument()
    assert "no client can be made" in caplog.text


class UnhashableClient(mqtt.Client):
    """A client that cannot be a key of a dict."""

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __eq__(self, other: object) -> bool:
        raise TypeError("not to be compared")


@pytest.mark.usefixtures("instrumented")
def test_an_unhashable_client(connect, tracer_provider, spans, topic, inbox, caplog):
    client = connect(topic, on_message=inbox, client_class=UnhashableClient)
    client.publish(topic, qos=1)
    spans.published(1)
    spans.processed(1)
    PahoMqttInstrumentor().uninstrument_client(client)
    client.publish(topic, qos=1).wait_for_publish(20)
    PahoMqttInstrumentor().instrument_client(client, tracer_provider=tracer_provider)
    client.publish(topic, qos=1)
    spans.published(2)
    assert caplog.text == ""
