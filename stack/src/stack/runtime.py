"""What the commands need from a runtime."""

import re
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from stack.backends import backend_pages
from stack.console import console
from stack.errors import StackError
from stack.part import local_url
from stack.settings import Settings
from stack.tree import printable

# The job that makes the broker's certificates exits when it is done.
ENDS = ("certificates", "exited")
# The consumer's message when the broker keeps sending a packet that it cannot read.
UNREADABLE = re.compile("the broker sent a malformed packet, .*")


class Runtime(ABC):
    """Starts, stops and shows the parts."""

    name: ClassVar[str]
    """Its name in RUNTIME."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @abstractmethod
    def up(self) -> None:
        """Starts parts that do not run, restarts those whose settings have changed, and waits until all are healthy.

        Raises:
            StackError: If something prevents the start, or a part does not become healthy.
        """

    @abstractmethod
    def end_sessions(self, names: list[str]) -> None:
        """Lets a consumer process the messages in the sessions of removed consumers, and end these sessions.

        Raises:
            StackError: If a session could not be emptied.
        """

    @abstractmethod
    def down(self) -> None:
        """Stops everything; the broker's messages and the issuer's key stay, except in Kubernetes.

        Raises:
            StackError: If something keeps running; names it.
        """

    @abstractmethod
    def stop(self, part: str) -> None:
        """Stops one part if it runs; ``up`` starts it again."""

    @abstractmethod
    def running(self) -> bool:
        """Tells whether anything of this stack runs in this runtime."""

    @abstractmethod
    def states(self) -> list[tuple[str, str, str]]:
        """Name, state and address of each part."""

    @abstractmethod
    def logs(self, part: str | None, lines: int, *, follow: bool) -> None:
        """Prints the last lines of the logs of one part or of all, and follows them if asked."""

    @abstractmethod
    def log_text(self, part: str) -> str:
        """The whole log of a part."""

    @abstractmethod
    def run_once(self, timeout_seconds: float) -> subprocess.CompletedProcess[str]:
        """Publishes one reading with the producer's own program, which prints its trace id."""

    @property
    def _once(self) -> dict[str, str]:
        """Variables for ``run_once``: always sampled, and with the user to which its client id is bound."""
        username = self._settings.mqtt_producer_username + "-once" * self._settings.own_broker
        return {"OTEL_TRACES_SAMPLER": "always_on", "MQTT_PRODUCER_USERNAME": username}

    @abstractmethod
    def environment(self, part: str) -> dict[str, str]:
        """The variables that a part was started with."""

    @abstractmethod
    def authority(self) -> str:
        """The certificate of the authority that signed the broker's certificate, as PEM."""

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Makes the parts reachable on the ports of the settings during the block."""
        yield

    def pages(self) -> dict[str, str]:
        """The addresses that a user may open, by name."""
        scout = self._settings.scout_otlp_endpoint
        return {
            "Traces": local_url(self._settings.viewer_port, "/traces") if self._settings.local_scout else str(scout),
            **backend_pages(self._settings),
            "Echo": local_url(self._settings.echo_port, "/docs"),
            "Broker": self._settings.broker_address,
        }

    def away(self) -> dict[str, str]:
        """The unhealthy parts, each with its state, and with the reason if its log has one."""
        states = [(name, state) for name, state, _ in self.states() if (name, state) != ENDS]
        return {
            name: state + self._reason(name, state) for name, state in states if state not in ("healthy", "running")
        }

    def _reason(self, part: str, state: str) -> str:
        said = UNREADABLE.findall(self.log_text(part)) if state == "unhealthy" else []
        return f" ({printable(said[-1], 200)})" if said else ""

    def trace_logs(self, trace_id: str, part: str | None) -> None:
        """Prints what one part or all parts have logged inside a trace, ordered by time.

        Raises:
            StackError: If it is not a trace id, or nothing was logged inside the trace.
        """
        if not re.fullmatch("[0-9a-f]{32}", trace_id):
            raise StackError(f"TRACE is {trace_id!r}; it must be a trace id, 32 hexadecimal digits")
        names = [part] if part else sorted({name for name, _, _ in self.states()})
        lines = [
            (line, name)
            for name in names
            for line in self.log_text(name).splitlines()
            if f"trace_id={trace_id}" in line
        ]
        if not lines:
            raise StackError(f"no log has a line of the trace {trace_id}; `make trace ID=...` shows its spans")
        width = max(len(name) for _, name in lines)
        for line, name in sorted(lines):
            console.print(f"{name:<{width}} | {printable(line, len(line))}", markup=False)
