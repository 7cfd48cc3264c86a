"""The consumer as it is; it stops when it has acknowledged ``READINGS`` readings."""

import os
import signal

import paho.mqtt.client as mqtt
from paho.mqtt.enums import MQTTErrorCode

from benchmarks.programs.stopwatch import Stopwatch
from consumer.__main__ import main

stopwatch = Stopwatch(int(os.environ["READINGS"]), then=lambda: os.kill(os.getpid(), signal.SIGTERM))
original = mqtt.Client.ack


def ack(self: mqtt.Client, mid: int, qos: int) -> MQTTErrorCode:
    """Acknowledges a reading and counts it."""
    result = original(self, mid, qos)
    stopwatch.tick()
    return result


if __name__ == "__main__":
    mqtt.Client.ack = ack
    raise SystemExit(main())
