"""Holds the capacity model against what was measured with the stack, and makes the tables of ``docs/scale.md``."""

import sys
from collections.abc import Sequence

from benchmarks.capacity import (
    USUAL_PAYLOAD,
    Fleet,
    consumer_cpu,
    echo_cpu,
    limits,
    measured,
    needs,
    of_the_broker,
    span_cpu,
)

FLEETS = [Fleet(10**power) for power in (3, 4, 5, 6)]
PADDINGS = {"as it is": 0, "1 KiB": 2**10, "16 KiB": 2**14, "64 KiB": 2**16, "256 KiB": 2**18}
# The machine that measured.
CORES = 2


def rate(consumers: int, payload: float = USUAL_PAYLOAD) -> float:
    """Readings a second, flat out: each consumer has one core at most, and all parts share those of the machine."""
    consumer, echo = consumer_cpu(payload=payload), echo_cpu(payload)
    around = sum(measured("consumer", "5000", "tracing on", f"CPU µs of {part}") for part in ("mosquitto", "collector"))
    return min(consumers / consumer, CORES / (consumer + echo + around / 1e6))


def predictions() -> list[tuple[str, float, float]]:
    """What was measured, what the model says, and the measured figure."""
    found: list[tuple[str, float, float]] = []

    def hold(subject: str, title: str, row: str, column: str, name: str, predicted: float) -> None:
        found.append((f"{row} {name}", predicted, measured(subject, title, row, column)))

    producer = measured("growth", "Devices", "1,000", "CPU µs per reading")
    at_rest = measured("memory", "Resident", "producer", "at rest")
    for devices in ("1", "100", "10,000"):
        hold("growth", "Devices", devices, "CPU µs per reading", "devices of a producer: CPU µs per reading", producer)
    for devices in ("1", "100", "1,000", "10,000"):
        hold("growth", "Devices", devices, "memory MiB", "devices of a producer: MiB", at_rest)
    for row, padding in PADDINGS.items():
        hold("growth", "Payload", row, "readings/s", "as payload: readings/s", rate(1, USUAL_PAYLOAD + padding))
    for consumers in (1, 2, 3):
        hold("growth", "Consumers", str(consumers), "readings/s", "consumers: readings/s", rate(consumers))
    paced = {
        "consumers": consumer_cpu(),
        "echo": echo_cpu(traced="all traced"),
        "collector": 3 * span_cpu(),
        "mosquitto": of_the_broker("CPU µs per reading") / 1e6,
    }
    for row in ("1", "5", "2"):
        for part, seconds in paced.items():
            name = f"consumers, 300 readings/s: CPU µs per reading, {part}"
            hold("connections", "An even 300", row, f"CPU µs per reading, {part}", name, seconds * 1e6)
    return found


def check() -> None:
    """Prints the model against what was measured."""
    rows = [
        [name, f"{predicted:,.0f}", f"{figure:,.0f}", f"{(predicted / figure - 1) * 100:+.0f} %"]
        for name, predicted, figure in predictions()
    ]
    _print(["", "the model", "measured", "deviation"], rows)


def fleets() -> None:
    """Prints what each fleet needs, one column each."""
    found = [needs(fleet) for fleet in FLEETS]
    rows = [[name, *(one[name] for one in found)] for name in found[0] if name != "breaks first"]
    _print(["", *(f"{fleet.devices:,} devices" for fleet in FLEETS)], rows)


def used() -> None:
    """Prints how full each limit of the stack is, sampling at the tail."""
    found = [{limit.name: limit.used for limit in limits(Fleet(fleet.devices, tail=True))} for fleet in FLEETS]
    rows = [[name, *(f"{one[name]:.2f}" for one in found)] for name in found[-1]]
    _print(["", *(f"{fleet.devices:,} devices" for fleet in FLEETS)], rows)


def _print(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [f"| {' | '.join(row)} |" for row in [header, ["---", *["---:" for _ in header[1:]]], *rows]]
    sys.modules["cog"].out("\n" + "\n".join(lines) + "\n\n")
