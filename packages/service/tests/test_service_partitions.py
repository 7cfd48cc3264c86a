from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from service.partitions import MOST_PARTITIONS, PARTITIONED_READINGS, reading_topic, readings_of

devices = st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True)
numbers = st.integers(1, MOST_PARTITIONS)


@given(devices, numbers)
def test_a_device_is_in_exactly_one_partition(device: str, partitions: int) -> None:
    topic = reading_topic(device, partitions)
    assert sum(topic_matches_sub(readings_of(number), topic) for number in range(partitions)) == 1
    assert topic_matches_sub(PARTITIONED_READINGS, topic)
    assert topic.split("/")[2:] == [device, "reading"]


@given(devices)
def test_without_partitions_the_topic_is_the_guide_s(device: str) -> None:
    assert reading_topic(device, None) == f"sensors/{device}/reading"
    assert not topic_matches_sub(PARTITIONED_READINGS, reading_topic(device, None))


def test_the_partition_is_the_crc_32_that_other_languages_have() -> None:
    # The check value of CRC-32/ISO-HDLC: 0xCBF43926.
    assert reading_topic("123456789", 16) == f"sensors/{0xCBF43926 % 16}/123456789/reading"


def test_devices_are_spread() -> None:
    topics = {reading_topic(f"sensor-{number:03}", 8).split("/")[1] for number in range(1, 101)}
    assert topics == {str(number) for number in range(8)}
