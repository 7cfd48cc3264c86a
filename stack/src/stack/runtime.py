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

# The job that makes the broker's certificates ends after that.
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
        """Starts what does not run, restarts what has other settings now, and returns when everything is healthy.

        Raises:
            StackError: If something stands in the way, or a part does not become healthy.
        """

    @abstractmethod
    def end_sessions(self, names: list[str]) -> None:
        """Lets a consumer process what the sessions of those that are gone still hold, and end them.

        Raises:
            StackError: If a session could not be emptied.
        """

    @abstractmethod
    def down(self) -> None:
        """Stops everything that runs; the broker's messages and the issuer's key stay, but in Kubernetes.

        Raises:
            StackError: If something of it goes on; names it.
        """

    @abstractmethod
    def stop(self, part: str) -> None:
        """Stops one part, if it runs; ``up`` starts it again."""

    @abstractmethod
    def running(self) -> bool:
        """Whether anything of this stack runs here."""

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
        """Variables of ``run_once``: traced whatever the sampling, and the user that its client id is bound to."""
        username = self._settings.mqtt_producer_username + "-once" * self._settings.own_broker
        return {"OTEL_TRACES_SAMPLER": "always_on", "MQTT_PRODUCER_USERNAME": username}

    @abstractmethod
    def environment(self, part: str) -> dict[str, str]:
        """The variables that a part was started with."""

    @abstractmethod
    def authority(self) -> str:
        """The certificate, as PEM, of the authority that signed the broker's."""

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Meanwhile the parts listen where the settings say."""
        yield

    def pages(self) -> dict[str, str]:
        """What a user may open, by name."""
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
        """Prints what one part or all have logged inside a trace, ordered by time.

        Raises:
            StackError: If that is no trace id, or nothing was logged inside it.
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
