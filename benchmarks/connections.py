"""What a fleet costs at the broker and the Collector: connections, sessions, waiting readings, shares, spans.

- *Connections*: simulated devices, each with a TCP connection of its own, publish in turn, together 500 readings a
  second. One consumer takes them. The broker is a Mosquitto with the stack's users and ACL, without TLS.
- *Sessions*: devices with a session and a subscription, first connected, then away.
- *Waiting readings*: what a reading takes in the session of an absent consumer, in memory and in the broker's file.
- *Share*: the same load for more and more consumers that do nothing but acknowledge.
- *Pace*: the whole stack at an even 300 readings a second, the load of the scaling test on Kubernetes, with as many
  consumers. One more run samples at the tail.

CPU is process time. Each load runs twice and the lower figure counts, so that other load on the machine matters little.
"""

import asyncio
import gzip
import json
import resource
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from threading import Event

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers
from recorder import recording

from benchmarks.readings import connected, queue_up, traced_properties
from benchmarks.result import Result, Table
from benchmarks.stacks import PRODUCER_STILL, listens, resident_mib, running_stack, running_stack_with_remote_scout
from harness import Stack, eventually, reading
from stack.parts import consumer_names

CONNECTIONS, OF_AN_ADDRESS, AT_ONCE = (100, 5000, 10_000, 19_000), 5000, 100
RATE, SECONDS, ROUNDS = 500, 8, 2
SESSIONS, WAITING, SHARES = 5000, 20_000, (1, 4, 16)
PACE, PACED_CONSUMERS, TAIL_PERCENTAGE = 300, (1, 5, 2), 10
# Beside its connections, a process has a few other files open.
OTHER_FILES = 500
# The broker writes its file once a second.
SETTLE_SECONDS = 4
PARTS = ("mosquitto", "consumers", "collector", "echo")


def packet(kind: int, body: bytes) -> bytes:
    """A control packet of MQTT 5, section 2.1."""
    return bytes([kind]) + VariableByteIntegers.encode(len(body)) + body


def text(value: str) -> bytes:
    """A string with its length, section 1.5.4."""
    return struct.pack("!H", len(value)) + value.encode()


class Device:
    """A simulated device: no more than a socket, so that thousands fit into one process."""

    def __init__(self, stack: Stack, number: int) -> None:
        self._settings, self._number, self._one_at_a_time = stack.settings, number, asyncio.Lock()
        self._device_id = f"sensor-{number:06}"
        self._topic = f"sensors/{self._device_id}/reading"

    async def connect(self, keeps_session: bool = False) -> None:
        """Connects from one of several loopback addresses: each has ports of its own."""
        source = (f"127.0.0.{2 + self._number // OF_AN_ADDRESS}", 0)
        port = self._settings.mqtt_port
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port, local_addr=source, limit=4096)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600 if keeps_session else 0
        login = text(self._settings.mqtt_operator_username) + text(
            self._settings.mqtt_operator_password.get_secret_value()
        )
        flags = b"\x05\xc2" + struct.pack("!H", 0)  # version 5; user, password, clean start; no keep-alive
        await self._ask(0x10, text("MQTT") + flags + properties.pack() + text(f"device-{self._number}") + login)

    async def subscribe(self) -> None:
        """Subscribes to one topic of its own."""
        await self._ask(0x82, b"\x00\x01" + Properties(PacketTypes.SUBSCRIBE).pack() + text(self._topic) + b"\x01")

    async def publish(self) -> None:
        """Publishes a traced reading with QoS 1, and waits until the broker has acknowledged it."""
        properties, made = traced_properties(self._device_id), reading(device_id=self._device_id)
        await self._ask(0x32, text(self._topic) + b"\x00\x01" + properties.pack() + json.dumps(made).encode())

    async def _ask(self, kind: int, body: bytes) -> None:
        async with self._one_at_a_time:
            self._writer.write(packet(kind, body))
            _, length = await self._reader.readexactly(2)
            answer = await self._reader.readexactly(length)
        if kind == 0x10 and answer[1] != 0:
            raise ConnectionRefusedError(f"device {self._number}: reason code {answer[1]}")

    async def leave(self) -> None:
        """Goes away without a word, as a device does."""
        self._writer.close()
        await self._writer.wait_closed()


def cpu_clock(pid: int) -> float:
    """CPU time of a process in seconds, finer than the ticks that psutil has: clock_getcpuclockid(3) of Linux."""
    return time.clock_gettime(~pid << 3 | 2)


def lower(load: Callable[[], object], pids: Mapping[str, Sequence[int]], count: int) -> dict[str, float]:
    """The lower of the CPU times in µs per reading, of several rounds of the same load."""
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        before = {name: sum(map(cpu_clock, group)) for name, group in pids.items()}
        load()
        rounds.append({name: (sum(map(cpu_clock, group)) - before[name]) / count * 1e6 for name, group in pids.items()})
    return {name: min(one[name] for one in rounds) for name in pids}


async def connect_all(devices: Sequence[Device], keeps_session: bool = False) -> None:
    """Connects them, some at once: more would wait in the broker's backlog."""
    for first in range(0, len(devices), AT_ONCE):
        await asyncio.gather(*(device.connect(keeps_session) for device in devices[first : first + AT_ONCE]))


async def publish_in_turn(devices: Sequence[Device], rate: int = RATE) -> None:
    """Publishes at an even pace, each device once until it is its turn again."""
    began, under_way = time.monotonic(), set[asyncio.Task[None]]()
    for number in range(rate * SECONDS):
        await asyncio.sleep(began + number / rate - time.monotonic())
        under_way.add(asyncio.create_task(devices[number % len(devices)].publish()))
    await asyncio.gather(*under_way)


def broker_cpu(stack: Stack, loop: asyncio.AbstractEventLoop, devices: Sequence[Device]) -> float:
    """CPU of the broker in µs per reading of these devices."""
    pids = {"mosquitto": [stack.pid("mosquitto")]}
    return lower(lambda: loop.run_until_complete(publish_in_turn(devices)), pids, RATE * SECONDS)["mosquitto"]


def subscribed(stack: Stack, names: Sequence[str], entered: ExitStack) -> Counter[str]:
    """Consumers that acknowledge; the count of what each has got."""
    got, topic_filter = Counter[str](), "sensors/+/reading"
    for name in names:
        client, done = entered.enter_context(connected(stack, "consumer", name)), Event()
        client.on_message = lambda *_, name=name: got.update([name])
        client.on_subscribe = lambda *_, done=done: done.set()
        client.subscribe(topic_filter if len(names) == 1 else f"$share/consumers/{topic_filter}", 1)
        done.wait(10)
    return got


def by_connections(stack: Stack, loop: asyncio.AbstractEventLoop) -> Table:
    """Memory and CPU of the broker by the number of connections."""
    broker, devices, rows = stack.pid("mosquitto"), list[Device](), list[list[str | float]]()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OTHER_FILES
    empty = resident_mib(broker)
    with ExitStack() as entered:
        subscribed(stack, ["consumer"], entered)
        for count in (min(count, most) for count in CONNECTIONS):
            new, before = [Device(stack, number) for number in range(len(devices), count)], cpu_clock(broker)
            loop.run_until_complete(connect_all(new))
            connecting = (cpu_clock(broker) - before) / len(new) * 1e6
            devices += new
            kib = (resident_mib(broker) - empty) / count * 1024
            cpu = broker_cpu(stack, loop, devices)
            rows.append([f"{count:,}", kib, connecting, cpu])
        for device in devices:
            loop.run_until_complete(device.leave())
    return Table(
        f"Connections to one broker, {RATE} readings a second in all",
        ["connections", "KiB per connection", "CPU µs to connect", "CPU µs per reading"],
        rows,
    )


def by_sessions(stack: Stack, loop: asyncio.AbstractEventLoop) -> Table:
    """Memory of the broker for a session, and what a reading takes while it waits in one."""
    broker, (store,) = stack.pid("mosquitto"), stack.settings.run_dir.rglob("mosquitto.db")
    devices = [Device(stack, CONNECTIONS[-1] + number) for number in range(SESSIONS)]
    empty = resident_mib(broker)
    loop.run_until_complete(connect_all(devices, keeps_session=True))
    for device in devices:
        loop.run_until_complete(device.subscribe())
    there = resident_mib(broker)
    for device in devices:
        loop.run_until_complete(device.leave())
    time.sleep(SETTLE_SECONDS)
    away, file_before = resident_mib(broker), store.stat().st_size
    queue_up(stack, WAITING)
    time.sleep(SETTLE_SECONDS)
    held = (resident_mib(broker) - away) * 2**20 / WAITING
    return Table(
        f"Sessions ({SESSIONS}), and {WAITING} readings that wait",
        ["", "bytes in the broker's memory", "bytes in its file"],
        [
            ["a session with a subscription, connected", (there - empty) * 2**20 / SESSIONS, "not measured"],
            ["the same, away", (away - empty) * 2**20 / SESSIONS, "not measured"],
            ["a reading that waits", held, (store.stat().st_size - file_before) / WAITING],
        ],
    )


def by_share(stack: Stack, loop: asyncio.AbstractEventLoop) -> Table:
    """CPU of the broker for a reading by the number of consumers that share."""
    rows: list[list[str | float]] = []
    devices = [Device(stack, number) for number in range(CONNECTIONS[0])]
    loop.run_until_complete(connect_all(devices))
    for count in SHARES:
        with ExitStack() as entered:
            got = subscribed(stack, consumer_names(count), entered)
            cpu = broker_cpu(stack, loop, devices)
            rows.append([str(count), cpu, max(got.values()) / sum(got.values()) * count])
    for device in devices:
        loop.run_until_complete(device.leave())
    return Table(
        f"Consumers in a share, {RATE} readings a second",
        ["consumers", "CPU µs per reading, broker", "busiest ÷ mean"],
        rows,
    )


def processed(stack: Stack, consumers: int) -> int:
    """The readings that the consumers have processed."""
    return sum(stack.runtime.log_text(name).count("processed reading") for name in consumer_names(consumers))


def by_pace(consumers: int, tail: bool = False) -> tuple[list[str | float], list[float]]:
    """CPU of each part for a reading; and bytes of a span at the Collector's exit, as such and compressed."""
    sent: list[tuple[int, int, int]] = []

    def take(path: str, body: bytes) -> None:
        if path == "/v1/traces":
            resources = ExportTraceServiceRequest.FromString(body).resource_spans
            spans = sum(len(scope.spans) for one in resources for scope in one.scope_spans)
            sent.append((spans, len(body), len(gzip.compress(body))))

    sampling = {"TAIL_SAMPLING_PERCENTAGE": str(TAIL_PERCENTAGE)} if tail else {}
    with recording() as scout:
        scout.take = take
        changed = {**scout.scout_values, **PRODUCER_STILL, **sampling, "CONSUMERS": str(consumers)}
        with running_stack(**changed) as stack, asyncio.Runner() as runner:
            devices = [Device(stack, number) for number in range(CONNECTIONS[0])]
            runner.run(connect_all(devices))
            names = {"mosquitto": ["mosquitto"], "collector": ["collector"], "echo": ["echo"]}
            names["consumers"] = consumer_names(consumers)
            pids = {part: [stack.pid(name) for name in group] for part, group in names.items()}

            def load() -> None:
                before = processed(stack, consumers)
                runner.run(publish_in_turn(devices, PACE))
                eventually(lambda: processed(stack, consumers) == before + PACE * SECONDS, 120)

            load()  # the start is another matter
            cpu = lower(load, pids, PACE * SECONDS)
            memory = resident_mib(stack.pid("collector"))
    spans, plain, compressed = (sum(values) for values in zip(*sent, strict=True))
    row = f"{consumers}{', tail sampling' if tail else ''}"
    return [row, *(cpu[part] for part in PARTS), memory], [spans, plain / spans, compressed / spans]


def benchmark() -> Result:
    """Measures the broker alone, then the whole stack."""
    many = {"MQTT_MAX_CONNECTIONS": "20000", "MQTT_MAX_QUEUED_BYTES": str(2**30)}
    with running_stack_with_remote_scout(**PRODUCER_STILL, **many) as stack, asyncio.Runner() as runner:
        for part in ("consumer", "producer"):
            stack.stop_part(part)
        loop = runner.get_loop()
        tables: list[Table] = []
        for measure in (by_connections, by_share, by_sessions):
            # A new process: memory that it has freed is no measure of anything.
            stack.stop_part("mosquitto")
            stack.start_part("mosquitto")
            eventually(lambda: listens(stack.settings.mqtt_port))
            tables.append(measure(stack, loop))
    runs = [*(by_pace(consumers) for consumers in PACED_CONSUMERS), by_pace(1, tail=True)]
    paced = Table(
        f"An even {PACE} readings a second, all traced",
        ["consumers", *(f"CPU µs per reading, {part}" for part in PARTS), "memory of the Collector, MiB"],
        [row for row, _ in runs],
    )
    spans = Table(
        "A span from the Collector to Scout",
        ["", "bytes"],
        [["OTLP", runs[0][1][1]], ["compressed with gzip", runs[0][1][2]]],
    )
    return Result([*tables, paced, spans])
