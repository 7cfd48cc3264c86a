"""Partitions of the topic space: all readings of a device are in one, so whoever reads it sees them in order."""

from zlib import crc32

# mosquitto/acl has a client id for each.
MOST_PARTITIONS = 16
A_NUMBER_OF_PARTITIONS = f"a number of partitions, 1 to {MOST_PARTITIONS}"

# The readings of all partitions.
PARTITIONED_READINGS = "sensors/+/+/reading"


def reading_topic(device_id: str, partitions: int | None) -> str:
    """The topic of a device's readings.

    Args:
        device_id: The device, without ``/``.
        partitions: How many partitions there are; None: the topic space is not partitioned.
    """
    if partitions is None:
        return f"sensors/{device_id}/reading"
    # The same in each process and language, unlike Python's hash().
    return f"sensors/{crc32(device_id.encode()) % partitions}/{device_id}/reading"


def readings_of(partition: int) -> str:
    """The topic filter of the readings of one partition."""
    return f"sensors/{partition}/+/reading"
