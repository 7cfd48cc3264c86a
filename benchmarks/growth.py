"""How the cost grows with devices, payload and consumers, and what an overloaded span queue drops.

- *Devices*: one producer, traced, with more and more devices that together send 100 readings a second; measured
  for as long as each takes to send once.
- *Payload*: readings that wait at the broker go through the traced consumer to the untraced echo.
- *Consumers*: the same, with a shared subscription and each consumer a process of its own.
- *Span queue*: the Collector is away while the consumer works through more readings than its span queue holds.
"""

import re
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from benchmarks.readings import queue_up
from benchmarks.result import Result, Table
from benchmarks.stacks import (
    cpu_seconds,
    environment,
    measure,
    program,
    resident_mib,
    running_stack_without_clients,
    serving_echo,
)
from harness import Stack, eventually
from stack.parts import consumer_names

DEVICES, RATE, LEAST_SECONDS = (1, 100, 1000, 10_000), 100, 10
PADDINGS = {
    "as it is": (0, 2000),
    "1 KiB": (2**10, 2000),
    "16 KiB": (2**14, 1000),
    "64 KiB": (2**16, 500),
    "256 KiB": (2**18, 200),
}
CONSUMERS, SHARED_READINGS, ROUNDS = (1, 2, 3), 3000, 2
OVERLOAD_READINGS, OVERLOAD_QUEUE = 3000, 2048


def benchmark() -> Result:
    """Measures all of them on one stack."""
    with running_stack_without_clients() as stack, serving_echo(stack, "echo", OTEL_SDK_DISABLED="true") as (url, pid):
        payload = by_payload(stack, url, pid)
        consumers = by_consumers(stack, url)
        # Last, because the Collector is stopped, and every subscriber gets the devices' readings.
        devices = by_devices(stack)
        overload = overloaded(stack, url)
    return Result([devices, payload, consumers, overload])


def by_devices(stack: Stack) -> Table:
    """CPU and memory of a producer by the number of its devices."""
    rows: list[list[str | float]] = []
    for devices in DEVICES:
        interval = devices / RATE
        seconds = max(LEAST_SECONDS, interval)
        with program(stack, "producer", "producer", DEVICES=str(devices), INTERVAL_SECONDS=str(interval)) as process:
            eventually(lambda process=process: psutil.Process(process.pid).num_threads() > 2)
            time.sleep(2)  # do not measure the start
            before = cpu_seconds(process.pid)
            time.sleep(seconds)
            cpu, memory = cpu_seconds(process.pid) - before, resident_mib(process.pid)
        rows.append([f"{devices:,}", cpu / seconds / RATE * 1e6, memory])
    title = f"Devices of one producer, {RATE} readings a second in all"
    return Table(title, ["devices", "CPU µs per reading", "memory MiB"], rows)


def by_payload(stack: Stack, url: str, echo: int) -> Table:
    """Rate and CPU by the size of a reading."""
    rows: list[list[str | float]] = []
    log = stack.settings.run_dir / "logs" / "payload.log"
    for size, (padding, count) in PADDINGS.items():
        queue_up(stack, count, padding="x" * padding)
        before = cpu_seconds(echo)
        found = measure("real_consumer", environment(stack, "consumer", READINGS=str(count), ECHO_URL=url), log)
        echo_cpu = (cpu_seconds(echo) - before) / count * 1e6
        rows.append([size, (count - 1) / found["seconds"], found["cpu_seconds"] / count * 1e6, echo_cpu])
    return Table("Payload", ["padding", "readings/s", "CPU µs per reading, consumer", "CPU µs per reading, echo"], rows)


def by_consumers(stack: Stack, url: str) -> Table:
    """Rate by the number of consumers that share the readings."""
    rows: list[list[str | float]] = []
    log = stack.settings.run_dir / "logs" / "shared.log"
    for count in CONSUMERS:
        names = consumer_names(count)

        def run(name: str, count: int = count) -> float:
            variables = {
                "MQTT_CLIENT_ID": name,
                "MQTT_CONSUMER_USERNAME": name,
                "CONSUMERS": str(count),
                "READINGS": str(SHARED_READINGS // count),
            }
            return measure("real_consumer", environment(stack, "consumer", ECHO_URL=url, **variables), log)["seconds"]

        rates: list[float] = []
        for _ in range(ROUNDS):
            queue_up(stack, SHARED_READINGS, sessions=tuple(names))
            with ThreadPoolExecutor() as pool:
                rates.append(SHARED_READINGS / max(pool.map(run, names)))
        rows.append([str(count), statistics.median(rates)])
    return Table(
        f"Consumers that share the readings ({SHARED_READINGS} readings, median of {ROUNDS})",
        ["consumers", "readings/s"],
        rows,
    )


def overloaded(stack: Stack, url: str) -> Table:
    """What becomes of readings and spans when the span queue is full."""
    queue_up(stack, OVERLOAD_READINGS)
    stack.stop_part("collector")
    output, log = (stack.settings.run_dir / name for name in ("overload", "logs/benchmarks.programs.real_consumer.log"))
    started = log.stat().st_size if log.exists() else 0
    variables = {
        "OTEL_METRICS_EXPORTER": "console",
        "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true",
        "OTEL_BSP_MAX_QUEUE_SIZE": str(OVERLOAD_QUEUE),
        "READINGS": str(OVERLOAD_READINGS),
        "ECHO_URL": url,
    }
    with program(stack, "consumer", "benchmarks.programs.real_consumer", output, **variables) as process:
        process.wait(120)
    said = log.read_text()[started:]
    return Table(
        f"Span queue of {OVERLOAD_QUEUE} with the Collector away, {OVERLOAD_READINGS} readings",
        ["", "count"],
        [
            ["readings processed and acknowledged", said.count("processed reading")],
            ["spans made (two for each reading)", 2 * OVERLOAD_READINGS],
            ["spans dropped, by otel.sdk.processor.span.processed, error.type=queue_full", dropped(output)],
            ['lines "Queue full, dropping Span" in the log', said.count("Queue full, dropping Span")],
            ["lines of the exporter in the log", len(re.findall("(?i)failed to export|transient error", said))],
        ],
    )


def dropped(output: Path) -> int:
    """The SDK's own count of dropped spans, from the last metrics that the console exporter printed."""
    counts = re.findall(
        r'"otel\.sdk\.processor\.span\.processed"(.*?)"aggregation_temporality"', output.read_text(), re.DOTALL
    )
    points = re.findall(r'"error\.type": "queue_full".*?"value": (\d+)', counts[-1], re.DOTALL) if counts else []
    return int(points[-1]) if points else 0
