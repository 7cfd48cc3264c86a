# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""The filter of a subscription is the template of the topics that it receives."""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import paho.mqtt.client as mqtt
import pytest
from opentelemetry.instrumentation.paho_mqtt import process_batch, process_span
from opentelemetry.instrumentation.paho_mqtt.clients import ClientState
from opentelemetry.instrumentation.paho_mqtt.topics import Subscription
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

Connect = Callable[..., mqtt.Client]
TEMPLATE = "messaging.destination.template"
GROUP = "messaging.consumer.group.name"


@pytest.mark.usefixtures("instrumented")
def test_the_filter_of_the_subscription_is_in_the_name(connect: Connect, spans, topic, inbox):
    client = connect("tests/+", on_message=inbox)
    client.publish(topic, qos=1)
    (span,) = spans.processed()
    assert span.name == "process tests/+"
    assert span.attributes[TEMPLATE] == "tests/+"
    assert span.attributes["messaging.destination.name"] == topic
    assert GROUP not in span.attributes
    (publish,) = spans.published()
    assert (publish.name, TEMPLATE in publish.attributes) == ("publish", False), "its topic is the publisher's own"


@pytest.mark.usefixtures("instrumented")
def test_a_shared_subscription_names_its_group(connect: Connect, spans, topic, inbox):
    client = connect("$share/workers/tests/#", on_message=inbox)
    client.publish(topic, qos=1)
    (span,) = spans.processed()
    assert (span.name, span.attributes[TEMPLATE], span.attributes[GROUP]) == ("process tests/#", "tests/#", "workers")


def test_the_users_templates_come_first(connect: Connect, instrument, spans, topic, inbox):
    instrument(destination_templates=["tests/#"])
    connect("$share/workers/tests/+", on_message=inbox).publish(topic, qos=1)
    (span,) = spans.processed()
    assert (span.name, span.attributes[TEMPLATE], span.attributes[GROUP]) == ("process tests/#", "tests/#", "workers")


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize(
    "arguments",
    [
        lambda name: ((name,), {}),
        lambda name: ((name, 1), {}),
        lambda name: ((), {"topic": name, "qos": 1}),
        lambda name: (((name, SubscribeOptions(qos=1)),), {}),
        lambda name: ((name,), {"options": SubscribeOptions(qos=1)}),
        lambda name: (([(name, SubscribeOptions(qos=1)), ("other/#", SubscribeOptions(qos=0))],), {}),
    ],
)
def test_however_the_subscription_is_written(connect: Connect, spans, topic, inbox, arguments):
    client = connect(on_message=inbox)
    positional, by_keyword = arguments("tests/+")
    client.subscribe(*positional, **by_keyword)
    client.publish(topic, qos=1)
    assert spans.processed()[0].name == "process tests/+"


@pytest.mark.usefixtures("instrumented")
def test_after_an_unsubscribe_the_filter_is_forgotten(connect: Connect, spans, topic):
    client = connect("tests/+", "tests/#")
    client.unsubscribe("tests/+")
    client.unsubscribe(["tests/#", "never/subscribed"])
    with process_span(mqtt.MQTTMessage(topic=topic.encode()), client=client):
        pass
    assert spans.processed()[0].name == "process"


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("wrong", [None, 7, (), [], [()], [None], [(7, 1)], b"bytes", {"a": 1}])
def test_what_paho_refuses_it_refuses_as_ever(caplog, wrong):
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    for call in (client.subscribe, client.unsubscribe):
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            call(wrong)
    with pytest.raises(TypeError):
        client.subscribe()  # pyright: ignore[reportCallIssue] (a wrong call, on purpose)
    assert not caplog.records


@pytest.mark.usefixtures("instrumented")
def test_a_batch_of_one_subscription_has_its_filter(connect: Connect, spans):
    client = connect("$share/workers/tests/+", client_id="worker")
    messages = [mqtt.MQTTMessage(topic=name) for name in (b"tests/1", b"tests/2")]
    with process_batch(messages, client=client):
        pass
    with process_batch([*messages, mqtt.MQTTMessage(topic=b"other")], client=client):
        pass
    one, several = spans.processed(2)
    assert (one.name, one.attributes[TEMPLATE], one.attributes[GROUP]) == ("process tests/+", "tests/+", "workers")
    assert "messaging.destination.name" not in one.attributes
    assert one.attributes["messaging.client.id"] == several.attributes["messaging.client.id"]
    assert (several.name, TEMPLATE in several.attributes, GROUP in several.attributes) == ("process", False, False)


@pytest.mark.parametrize(
    ("name", "subscription"),
    [
        ("a/+", ("a/+", None)),
        ("$share/g/a/+", ("a/+", "g")),
        ("$share/g//a", ("/a", "g")),
        ("$share/g", ("$share/g", None)),
        ("$share/g/", ("$share/g/", None)),
        ("$share//a", ("$share//a", None)),
        ("$shared/g/a", ("$shared/g/a", None)),
    ],
)
def test_names_of_subscriptions(name, subscription):
    assert Subscription.parse(name) == subscription


@pytest.mark.parametrize(
    ("topic", "match"),
    [("a/b", "a/b"), ("a/c", "a/+"), ("a/b/c", "a/#"), ("b", "#"), ("$SYS/x", None), ("", "#")],
)
def test_the_closest_filter_that_matches(topic, match):
    state = ClientState()
    state.subscribed(["#", "a/#", "a/+", "a/b"])
    found = state.subscriptions.match(topic)
    assert (found and found.topic_filter) == match


def test_subscriptions_have_a_bound():
    state = ClientState()
    state.subscribed(f"a/{number}" for number in range(1_000))
    assert state.subscriptions.match("a/99")
    assert state.subscriptions.match("a/100") is None
    state.unsubscribed(["a/7"])
    state.subscribed(["a/100"])
    assert (state.subscriptions.match("a/7"), state.subscriptions.match("a/100")) == (None, ("a/100", None))


def test_threads_that_subscribe_at_once_lose_nothing():
    def subscribe(number: int) -> None:
        for other in range(10):
            state.subscribed([f"{number}/{other}"])
            state.unsubscribed([f"{number}/{other - 1}"])

    state = ClientState()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(subscribe, range(8)))
    assert sorted(state.subscriptions.by_name) == [f"{number}/9" for number in range(8)]
