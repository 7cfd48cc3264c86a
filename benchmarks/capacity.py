"""What a fleet needs, computed from the measured unit costs of ``results.json`` and the limits in the configuration.

``python -m benchmarks.capacity --devices 100000 --interval 60 --payload 180 --sampling 0.1``
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STORE = ROOT / "benchmarks" / "results.json"
# Nothing is planned to be busier than this: what is left is for peaks, updates and what was not measured.
BUSY = 0.7
MONTH_SECONDS, OUTAGE_SECONDS = 30 * 86_400, 3600
# publish, process, POST and POST /echo.
SPANS_OF_A_READING = 4
# Memory of one broker node: a pod's limit.
BROKER_BYTES = 512 * 2**20
# The payload with which results.json was measured, unless a row says otherwise.
USUAL_PAYLOAD = 180


@cache
def results() -> dict[str, Any]:
    """The content of ``results.json``."""
    return json.loads(STORE.read_text())


def measured(subject: str, title: str, row: str, column: str) -> float:
    """A figure of ``results.json``; the title is the beginning of the table's."""
    table = next(table for table in results()[subject]["tables"] if table["title"].startswith(title))
    return next(one for one in table["rows"] if one[0] == row)[table["columns"].index(column)]


def configured(file: str, pattern: str) -> float:
    """A limit, where the stack configures it."""
    return float(re.findall(pattern, (ROOT / file).read_text())[0])


def consumer_cpu(sampled: float = 1.0, payload: float = USUAL_PAYLOAD) -> float:
    """CPU seconds of a consumer per reading; spans cost in proportion to sampling, and bytes in proportion to size."""
    off, on = (measured("consumer", "5000", f"tracing {kind}", "CPU µs per reading") for kind in ("off", "on"))
    return (off + sampled * (on - off)) / 1e6 + payload_cpu("consumer") * (payload - USUAL_PAYLOAD)


def echo_cpu(payload: float = USUAL_PAYLOAD, traced: str = "tracing on") -> float:
    """CPU seconds of echo per reading, untraced; "all traced" is with spans of echo as well."""
    return measured("consumer", "5000", traced, "CPU µs of echo") / 1e6 + payload_cpu("echo") * (
        payload - USUAL_PAYLOAD
    )


def payload_cpu(part: str) -> float:
    """CPU seconds per byte of payload, from the smallest and the largest."""
    small, large = (
        measured("growth", "Payload", row, f"CPU µs per reading, {part}") for row in ("as it is", "256 KiB")
    )
    return (large - small) / 2**18 / 1e6


def span_cpu() -> float:
    """CPU seconds of a Collector per span, with the metrics and log records that come with it: three of a reading."""
    off, traced = (measured("consumer", "5000", row, "CPU µs of collector") for row in ("tracing off", "all traced"))
    return (traced - off) / 3 / 1e6


def of_the_broker(column: str) -> float:
    """A figure of the broker with the most connections that were measured."""
    table = results()["connections"]["tables"][0]
    return table["rows"][-1][table["columns"].index(column)]


def waiting(column: str, payload: float) -> float:
    """Bytes of a reading that waits in a session."""
    return measured("connections", "Sessions", "a reading that waits", column) + payload - USUAL_PAYLOAD


def tail_traces() -> float:
    """Traces a second that one Collector can hold until it decides, as it is configured."""
    file = "collector/tail-sampling.yaml"
    return configured(file, r"num_traces: (\d+)") / configured(file, r"TAIL_SAMPLING_WAIT:-(\d+)s")


@dataclass(frozen=True)
class Fleet:
    """Devices that each publish a reading of so many bytes each interval, in seconds; a part of the traces is kept."""

    devices: int
    interval: float = 60
    payload: float = USUAL_PAYLOAD
    sampling: float = 0.1
    tail: bool = False

    @property
    def rate(self) -> float:
        """Readings a second."""
        return self.devices / self.interval

    @property
    def recorded(self) -> float:
        """The part of the readings whose spans reach a Collector: all of them, if the sampling is at the tail."""
        return 1.0 if self.tail else self.sampling

    @property
    def consumer_cores(self) -> float:
        """Cores that the consumers use."""
        return self.rate * consumer_cpu(self.recorded, self.payload)

    @property
    def broker_cores(self) -> float:
        """Cores that the broker uses."""
        return self.rate * of_the_broker("CPU µs per reading") / 1e6

    @property
    def broker_bytes(self) -> float:
        """Memory of the broker for the connections."""
        return self.devices * of_the_broker("KiB per connection") * 1024

    @property
    def collector_cores(self) -> float:
        """Cores that the Collectors use."""
        return self.rate * self.recorded * SPANS_OF_A_READING * span_cpu()


@dataclass(frozen=True)
class Limit:
    """What a stack with one of each part reaches, as it is configured."""

    name: str
    load: float
    limit: float

    @property
    def used(self) -> float:
        """1 is full."""
        return self.load / self.limit


def limits(fleet: Fleet) -> list[Limit]:
    """All limits, the one that breaks first at the front."""
    messages = configured("mosquitto/mosquitto.conf", r"max_queued_messages (\d+)")
    by_bytes = configured(".env.example", r"MQTT_MAX_QUEUED_BYTES=(\d+)") / fleet.payload
    found = [
        Limit("connections of the broker", fleet.devices, configured(".env.example", r"MQTT_MAX_CONNECTIONS=(\d+)")),
        Limit("memory of the broker", fleet.broker_bytes, BROKER_BYTES),
        Limit("core of the broker", fleet.broker_cores, 1),
        Limit("core of the consumer", fleet.consumer_cores, 1),
        Limit("queue of the consumer, an hour", fleet.rate * OUTAGE_SECONDS, min(messages, by_bytes)),
        Limit("core of the Collector", fleet.collector_cores, 1),
        *([Limit("traces of the Collector", fleet.rate, tail_traces())] if fleet.tail else []),
    ]
    return sorted(found, key=lambda limit: -limit.used)


def needs(fleet: Fleet) -> dict[str, str]:
    """What the fleet needs, with none of it busier than ``BUSY``."""
    collectors = max(fleet.collector_cores / BUSY, fleet.rate / tail_traces() if fleet.tail else 0)
    balancers = ceil(fleet.collector_cores / BUSY) if fleet.tail and collectors > 1 else 0
    nodes = max(fleet.broker_cores / BUSY, fleet.broker_bytes / (BROKER_BYTES * BUSY))
    hour = fleet.rate * OUTAGE_SECONDS
    spans_a_second = fleet.rate * fleet.sampling * SPANS_OF_A_READING
    month = spans_a_second * MONTH_SECONDS
    plain, compressed = (measured("connections", "A span", row, "bytes") for row in ("OTLP", "compressed with gzip"))
    return {
        "readings a second": f"{fleet.rate:,.0f}",
        "consumers": f"{ceil(fleet.consumer_cores / BUSY)}",
        "Collectors": f"{ceil(collectors)}" + (f", and {balancers} in front" if balancers else ""),
        "broker nodes": f"{ceil(nodes)}",
        "broker, memory for connections": size(fleet.broker_bytes),
        "broker, CPU to connect all": f"{fleet.devices * of_the_broker('CPU µs to connect') / 1e6:,.0f} s",
        "broker's volume, an hour of readings": size(hour * waiting("bytes in its file", fleet.payload)),
        "Collectors' volume, an hour of spans": size(spans_a_second * OUTAGE_SECONDS * plain),
        "spans a month": f"{month / 1e6:,.1f} million",
        "OTLP a month": size(month * plain),
        "the same, compressed": size(month * compressed),
        "breaks first": "; ".join(f"{one.name} ({one.used:.1f})" for one in limits(fleet) if one.used > BUSY)
        or "nothing",
    }


def size(count: float) -> str:
    """Bytes, as people read them."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"


def main() -> None:
    """Prints what one fleet needs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description="What a fleet needs.")
    parser.add_argument("--devices", type=int, required=True, help="how many publish")
    parser.add_argument("--interval", type=float, default=60, help="seconds from one reading of a device to its next")
    parser.add_argument("--payload", type=float, default=USUAL_PAYLOAD, help="bytes of a reading")
    parser.add_argument("--sampling", type=float, default=0.1, help="the part of the traces that is kept, 0 to 1")
    parser.add_argument("--tail", action="store_true", help="the Collectors sample, not the devices")
    fleet = Fleet(**vars(parser.parse_args()))
    if min(fleet.devices, fleet.interval, fleet.payload) <= 0 or not 0 <= fleet.sampling <= 1:
        parser.error("devices, interval and payload must be above 0, and sampling 0 to 1")
    sys.stdout.writelines(f"{name:<38}{value}\n" for name, value in needs(fleet).items())


if __name__ == "__main__":
    main()
