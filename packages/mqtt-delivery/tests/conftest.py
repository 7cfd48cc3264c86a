"""Brokers and topics for the tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from delivery_harness import Broker
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that no test stops."""
    with Broker(tmp_path_factory.mktemp("mosquitto")) as running:
        yield running


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker for a test that stops it."""
    with Broker(tmp_path) as running:
        yield running


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic that only this test uses."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    return f"tests/{name}"


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> InMemoryMetricReader:
    """Reads the metrics of the package."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr("mqtt_delivery.metrics.get_meter", provider.get_meter)
    return reader
