"""Other brokers than the stack's own: how each is built, configured and started.

Built and downloaded files stay in the user's cache folder, under the hash of the broker's folder.
"""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from typing_extensions import override

from harness import eventually, files_of_the_project, free_ports
from stack.build import cache_folder, cached, require_command, search_path
from stack.programs import BUILD_FLAGS
from stack.settings import ROOT

FOLDER = Path(__file__).parent
USER, PASSWORD = "tester", "tester-secret"
# All our services log in as the only user of such a broker.
LOGIN = {
    f"MQTT_{who}_{what}": value
    for who in ("PRODUCER", "CONSUMER", "OPERATOR")
    for what, value in (("USERNAME", USER), ("PASSWORD", PASSWORD))
}


@dataclass
class Running:
    """A running broker.

    Attributes:
        broker: The broker.
        ports: The MQTT port of each node.
        log: The file with its output.
    """

    broker: "Broker"
    ports: Sequence[int]
    log: Path
    _environment: Mapping[str, str]
    _commands: Sequence[list[str]]
    _processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def port(self) -> int:
        """The MQTT port of the first node."""
        return self.ports[0]

    def start(self, node: int) -> None:
        """Starts a node, which does not listen yet."""
        with self.log.open("ab") as output:
            self._processes[node] = subprocess.Popen(
                self._commands[node], env=self._environment, stdout=output, stderr=output, start_new_session=True
            )

    def kill(self, node: int) -> None:
        """Kills a node with its child processes."""
        process = self._processes.pop(node)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)

    def wait(self) -> None:
        """Waits until each node that was started listens."""
        eventually(lambda: all(listens(self.ports[node]) for node in self._processes) or self._ended(), 120)
        assert not self._ended(), self.log.read_text()

    def close(self) -> None:
        """Kills all nodes."""
        for node in list(self._processes):
            self.kill(node)

    def _ended(self) -> bool:
        return any(process.poll() is not None for process in self._processes.values())


class Broker(ABC):
    """A broker; its folder has the same name."""

    name: ClassVar[str]
    title: ClassVar[str]
    # Built and started within seconds, so `make test` runs it too.
    quick: ClassVar[bool] = False
    # The command that building it needs.
    toolchain: ClassVar[str] = ""
    nodes: ClassVar[int] = 1
    # True if it has shared subscriptions (MQTT 5.0, 4.8.2).
    shares: ClassVar[bool] = True
    # True if it answers an UNSUBSCRIBE, as MQTT 5.0, 3.10.4 requires.
    leaves: ClassVar[bool] = True
    # True if a client that takes over a session gets what was not acknowledged first, and in order (MQTT 5.0, 4.6).
    hands_over: ClassVar[bool] = True
    # Settings that a consumer needs to work with it.
    consumer: ClassVar[Mapping[str, str]] = {}

    @property
    def files(self) -> list[Path]:
        """The files of its build and its configuration."""
        return files_of_the_project(f"tests/brokers/{self.name}/*")

    @property
    def digest(self) -> str:
        """A hash that changes with its version and its configuration."""
        return hashlib.sha256(b"".join(file.read_bytes() for file in self.files)).hexdigest()[:16]

    @property
    @abstractmethod
    def version(self) -> str:
        """The version that its manifest pins, or that the system has."""

    def prepare(self) -> Path:
        """Builds it unless it is built already; returns the folder."""
        built = cached(self.name, *self.files)
        if not built.exists():
            built.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=cache_folder()) as scratch:
                self.build(Path(scratch) / "built")
                (Path(scratch) / "built").rename(built)
        return built

    @abstractmethod
    def build(self, into: Path) -> None:
        """Builds it into a folder that does not exist yet."""

    @abstractmethod
    def commands(self, built: Path, folder: Path, ports: Sequence[int]) -> list[list[str]]:
        """The command that starts each node.

        Args:
            built: The folder with the built broker.
            folder: A folder for its configuration and its state.
            ports: The MQTT port of each node.
        """

    def environment(self, folder: Path) -> Mapping[str, str]:
        """Environment variables that its processes need."""
        return {}

    @contextmanager
    def running(self, folder: Path) -> Iterator[Running]:
        """Runs it until the block ends."""
        built, ports = self.prepare(), free_ports(self.nodes)
        environment = {**os.environ, "PATH": search_path(), **self.environment(folder)}
        running = Running(self, ports, folder / "log", environment, self.commands(built, folder, ports))
        with closing(running):
            for node in range(len(ports)):
                running.start(node)
            running.wait()
            yield running

    def fill(self, template: str, folder: Path, **values: object) -> Path:
        """Copies a file of its folder to another folder, with the values filled in."""
        known = {"FOLDER": folder, "USER": USER, "PASSWORD": PASSWORD, **values}
        text = (FOLDER / self.name / template).read_text()
        filled = folder / template
        filled.write_text(re.sub("@([A-Z_]+)@", lambda found: str(known[found[1]]), text))
        return filled

    def pinned(self, manifest: str, pattern: str) -> str:
        """The version that a file in its folder pins."""
        found = re.search(pattern, (FOLDER / self.name / manifest).read_text())
        assert found, f"{manifest} pins no version of {self.name}"
        return found[1]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run(*command: str, folder: Path) -> None:
    """Runs a command of a build."""
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"


class Mosquitto(Broker):
    """The system's Mosquitto, configured as differently from the stack's own as possible."""

    name = "mosquitto"
    title = "Mosquitto, without $SYS and for anybody"
    quick = True

    @property
    @override
    def version(self) -> str:
        done = subprocess.run(
            ["mosquitto", "-h"], env={"PATH": search_path()}, capture_output=True, text=True, check=False
        )
        return done.stdout.split()[2]

    @override
    def build(self, into: Path) -> None:
        require_command("mosquitto", "mosquitto", "mosquitto-clients")
        into.mkdir()

    @override
    def commands(self, built: Path, folder: Path, ports: Sequence[int]) -> list[list[str]]:
        return [["mosquitto", "-c", str(self.fill("mosquitto.conf", folder, PORT=ports[0]))]]


class Mochi(Broker):
    """A broker in Go."""

    name = "mochi"
    title = "mochi-mqtt"
    hands_over = False
    quick = True
    toolchain = "go"
    # If so many messages wait for an acknowledgement, it delivers nothing more until the next connection.
    consumer: ClassVar[Mapping[str, str]] = {"QUEUE_SIZE": "5000"}

    @property
    @override
    def version(self) -> str:
        return self.pinned("go.mod", r"mochi-mqtt/server/v2 v(\S+)")

    @override
    def build(self, into: Path) -> None:
        # With the same flags as the Collector, so that shared packages are compiled once.
        run("go", "build", *BUILD_FLAGS, "-buildvcs=false", "-o", str(into / "broker"), ".", folder=FOLDER / self.name)

    @override
    def commands(self, built: Path, folder: Path, ports: Sequence[int]) -> list[list[str]]:
        return [[str(built / "broker"), str(ports[0]), USER, PASSWORD]]


class Rumqttd(Broker):
    """A broker in Rust."""

    name = "rumqttd"
    title = "rumqttd"
    toolchain = "cargo"
    leaves = False

    @property
    @override
    def version(self) -> str:
        return self.pinned("Cargo.toml", r'rumqttd = \{ version = "=([^"]+)"')

    @override
    def build(self, into: Path) -> None:
        command = ["cargo", "install", "--quiet", "--locked", "--debug", "--path=.", f"--root={into}"]
        run(*command, f"--target-dir={into.with_name('target')}", folder=FOLDER / self.name)

    @override
    def commands(self, built: Path, folder: Path, ports: Sequence[int]) -> list[list[str]]:
        return [[str(built / "bin" / "broker"), str(self.fill("rumqttd.toml", folder, PORT=ports[0]))]]


class JavaBroker(Broker):
    """A broker embedded in a program of one file, ``Broker.java``, with libraries from Maven."""

    toolchain = "mvn"

    @property
    @override
    def version(self) -> str:
        return self.pinned("pom.xml", r"<version>(\d[^<]+)</version>")

    @override
    def build(self, into: Path) -> None:
        own = FOLDER / self.name
        target = f"-DoutputDirectory={into}"
        run(
            "mvn",
            "--batch-mode",
            "--quiet",
            "--file",
            str(own / "pom.xml"),
            "dependency:copy-dependencies",
            target,
            folder=own,
        )
        run("sha256sum", "--check", "--quiet", str(own / "libraries.sha256"), folder=into)

    def java(self, built: Path, *arguments: str, **properties: str) -> list[str]:
        """The command that runs the program, with system properties."""
        given = [f"-D{name.replace('_', '-')}={value}" for name, value in properties.items()]
        return ["java", "-Xmx512m", *given, "-cp", f"{built}/*", str(FOLDER / self.name / "Broker.java"), *arguments]


class HiveMQ(JavaBroker):
    """HiveMQ Community Edition, embedded."""

    name = "hivemq"
    title = "HiveMQ CE"

    @override
    def commands(self, built: Path, folder: Path, ports: Sequence[int]) -> list[list[str]]:
        self.fill("config.xml", folder, PORT=ports[0])
        for needed in ("data", "extensions"):
            (folder / needed).mkdir()
        return [self.java(built, str(folder), USER, PASSWORD)]


class Artemis(JavaBroker):
    """Apache Artemis, embedded: the cluster of kubernetes/components/artemis, with its configuration."""

    name = "artemis"
    title = "Apache Artemis, a cluster of two"
    hands_over = False
    nodes = 2
    CONFIGURATION = ROOT / "kubernetes/components/artemis/nodes/broker.xml"

    @property
    @override
    def files(self) -> list[Path]:
        return [*super().files, self.CONFIGURATION]

    @override
    def commands(self, built: Path, folder: Path, ports: Sequence[int]) -> list[list[str]]:
        between = [f"127.0.0.1:{port}" for port in free_ports(self.nodes)]
        nodes = {f"artemis_{number}": address for number, address in enumerate(between)}
        return [
            self.java(
                built,
                str(self.CONFIGURATION),
                USER,
                PASSWORD,
                node=f"artemis-{number}",
                data=str(folder / f"artemis-{number}"),
                mqtt=f"127.0.0.1:{port}",
                cluster=own,
                cluster_password=PASSWORD,
                **nodes,
                # Otherwise each message is in the log.
                **{"org.slf4j.simpleLogger.log.org.apache.activemq.audit": "error"},
            )
            for number, (port, own) in enumerate(zip(ports, between, strict=True))
        ]


class DebianBroker(Broker):
    """A broker from a later Debian release than this machine's, in its own root folder; needs root."""

    toolchain = "debootstrap"
    suite: ClassVar[str]
    package: ClassVar[str]

    @property
    @override
    def version(self) -> str:
        fields = ["dpkg-query", f"--admindir={self.prepare()}/var/lib/dpkg", "--show", "--showformat=${Version}"]
        return subprocess.run([*fields, self.package], capture_output=True, text=True, check=True).stdout.split("-")[0]

    @override
    def build(self, into: Path) -> None:
        # This machine's debootstrap may not know the suite, so it uses the script of the newest one.
        mirror, script = "http://deb.debian.org/debian", "/usr/share/debootstrap/scripts/sid"
        command = [
            "debootstrap",
            "--variant=minbase",
            f"--include={self.package}",
            self.suite,
            str(into),
            mirror,
            script,
        ]
        run(*command, folder=FOLDER)

    @override
    def commands(self, built: Path, folder: Path, ports: Sequence[int]) -> list[list[str]]:
        """Runs the script ``start.sh`` of the broker's folder, in the root folder."""
        inside = self._inside(folder)
        (built / inside).mkdir()
        (epmd, distribution) = free_ports(2)
        for file in self.files:
            self.fill(
                file.name, built / inside, FOLDER=f"/{inside}", PORT=ports[0], EPMD_PORT=epmd, ERLANG_PORT=distribution
            )
        return [["chroot", str(built), "/bin/sh", f"/{inside}/start.sh"]]

    @override
    @contextmanager
    def running(self, folder: Path) -> Iterator[Running]:
        try:
            with super().running(folder) as running:
                yield running
        finally:
            shutil.rmtree(self.prepare() / self._inside(folder))

    @staticmethod
    def _inside(folder: Path) -> Path:
        return Path("srv") / folder.name


class Mosquitto21(DebianBroker):
    """Mosquitto 2.1; the system's may be older."""

    name = "mosquitto-2.1"
    title = "Mosquitto 2.1"
    suite = "forky"
    package = "mosquitto"


class RabbitMQ(DebianBroker):
    """RabbitMQ 4, with its plug-in for MQTT."""

    name = "rabbitmq"
    title = "RabbitMQ"
    suite = "trixie"
    package = "rabbitmq-server"
    shares = False


BROKERS: dict[str, Broker] = {
    broker.name: broker for broker in (Mosquitto(), Mosquitto21(), Mochi(), HiveMQ(), Artemis(), RabbitMQ(), Rumqttd())
}


def missing(broker: Broker) -> str:
    """The reason why it cannot be built here, or an empty string."""
    if broker.toolchain and shutil.which(broker.toolchain) is None:
        return f"{broker.title} needs {broker.toolchain}, which is not installed here"
    return ""
