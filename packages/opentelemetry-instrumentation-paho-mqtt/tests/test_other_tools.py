# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Other tools may wrap paho's methods before or after us: no wrapper and no argument gets lost."""

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock, patch

import paho.mqtt.client as mqtt
import pytest
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor
from opentelemetry.instrumentation.utils import unwrap
from opentelemetry.trace import SpanKind
from paho.mqtt.enums import CallbackAPIVersion
from wrapt import wrap_function_wrapper

ORIGINAL = vars(mqtt.Client)["publish"]


def offline_client() -> mqtt.Client:
    return mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)


class Tool:
    """A tool that wraps ``Client.publish`` with wrapt, and records the arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
        self.wrapper: Any = None

    def wrap(self) -> None:
        """Wraps ``publish``."""

        def call(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self.calls.append((instance, args, kwargs))
            return wrapped(*args, **kwargs)

        wrap_function_wrapper(mqtt.Client, "publish", call)
        self.wrapper = vars(mqtt.Client)["publish"]


@pytest.fixture
def tool():
    yield Tool()
    type.__setattr__(mqtt.Client, "publish", ORIGINAL)


def test_a_tool_that_wrapped_before_us_sees_the_client_and_the_arguments_as_they_were_passed(tool, instrument, spans):
    tool.wrap()
    instrument()
    client = offline_client()
    client.publish("topic", qos=0, payload="x")
    client.publish("topic", "x", 0, False, None)
    first, second = tool.calls
    assert first[0] is second[0] is client
    assert first[1] == ("topic",)
    assert {**first[2], "properties": None} == {"qos": 0, "payload": "x", "properties": None}
    assert second[1][:4] == ("topic", "x", 0, False)
    assert second[2] == {}
    PahoMqttInstrumentor().uninstrument()
    assert vars(mqtt.Client)["publish"] is tool.wrapper
    client.publish("topic")
    assert len(tool.calls) == 3
    assert spans.started == 2


def test_a_tool_that_wrapped_after_us_keeps_its_wrapper_and_there_is_one_span_again(tool, instrument, spans):
    instrument()
    tool.wrap()
    client = offline_client()
    for times_instrumented in (1, 2, 3):
        client.publish("topic")
        spans.published(times_instrumented)
        PahoMqttInstrumentor().uninstrument()
        client.publish("topic")
        assert len(tool.calls) == 2 * times_instrumented
        instrument()


def test_a_tool_that_takes_its_wrapper_off_again(tool, instrument, spans):
    instrument()
    tool.wrap()
    PahoMqttInstrumentor().uninstrument()
    unwrap(mqtt.Client, "publish")
    instrument()
    offline_client().publish("topic")
    spans.published(1)
    PahoMqttInstrumentor().uninstrument()
    assert vars(mqtt.Client)["publish"] is ORIGINAL


def test_a_tool_that_puts_back_what_was_there_before_us(tool, instrument, spans):
    instrument()
    mqtt.Client.publish = ORIGINAL
    PahoMqttInstrumentor().uninstrument()
    assert vars(mqtt.Client)["publish"] is ORIGINAL
    instrument()
    offline_client().publish("topic")
    spans.published(1)


def test_a_wrapper_that_hides_ours_makes_no_second_span(tool, instrument, spans):
    instrument()
    hidden = mqtt.Client.publish
    mqtt.Client.publish = lambda self, *args, **kwargs: hidden(self, *args, **kwargs)
    PahoMqttInstrumentor().uninstrument()
    instrument()
    offline_client().publish("topic")
    spans.published(1)


@pytest.mark.parametrize("mocked_first", [True, False])
@pytest.mark.parametrize("autospec", [True, None])
@pytest.mark.parametrize("result", [None, 1, Mock()])
def test_a_mocked_publish_is_called_as_without_us(instrument, mocked_first, autospec, result):
    if not mocked_first:
        instrument()
    with patch.object(mqtt.Client, "publish", autospec=autospec, return_value=result) as mocked:
        if mocked_first:
            instrument()
        assert offline_client().publish("topic", qos=1) is result
        assert mocked.call_count == 1
        PahoMqttInstrumentor().uninstrument()
    instrument()
    PahoMqttInstrumentor().uninstrument()
    assert vars(mqtt.Client)["publish"] is ORIGINAL


@pytest.mark.usefixtures("instrumented")
def test_a_method_called_through_its_class(spans):
    mqtt.Client.publish(offline_client(), "topic")
    spans.wait_for(1, SpanKind.PRODUCER)
