"""The local runtime: the parts as processes of this machine, under supervisor."""

import json
import shlex
import socket
import subprocess
import time
from collections.abc import Collection, Mapping, Set
from pathlib import Path
from typing import Any

from supervisor.states import ProcessStates
from typing_extensions import override

from stack import build
from stack.backends import check_local, write_prometheus_configuration
from stack.console import console
from stack.environment import environment_of, settings_among, system_environment
from stack.errors import StackError
from stack.part import Part
from stack.parts import consumer_login, consumer_names, local_parts, partition_name
from stack.runtime import Runtime
from stack.settings import Settings
from stack.supervisor import Supervisor

START_SECONDS = 60.0


class LocalRuntime(Runtime):
    """Starts, stops and shows the stack without Docker."""

    name = "local"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._run = settings.run_dir
        self.supervisor = Supervisor(self._run)

    @override
    def up(self) -> None:
        check_local(self._settings)
        binaries = build.prepare(self._settings)
        parts = local_parts(self._settings, binaries)
        running = self.supervisor.processes().keys()
        former = self.environment("consumer")
        self._claim_ports(bool(running))
        if self._settings.own_broker and self._settings.mqtt_tls:
            import certificates  # noqa: PLC0415 (what it is made with takes long to load)

            certificates.prepare(self._settings.tls_folder)
            certificates.prepare_devices(self._settings.tls_folder / "devices", self._settings.certified)
        if "prometheus" in self._settings.backends:
            write_prometheus_configuration(self._settings)
        self._prepare(parts, running)
        started = time.monotonic()
        with console.status("Starting ...") as status:
            for wave in sorted({part.wave for part in parts}):
                members = [part for part in parts if part.wave == wave]
                for part in members:
                    self._start(part.name)
                self._wait_healthy(members, status)
        console.print(f"All {len(parts)} parts are healthy after {time.monotonic() - started:.1f} s.")
        partitions = int(former.get("PARTITIONS") or 0)
        if former and partitions != (self._settings.partitions or 0):
            self._leave([*map(partition_name, range(partitions))] or consumer_names(int(former["CONSUMERS"])), former)

    @override
    def end_sessions(self, names: list[str]) -> None:
        gone = [name for name in names if self.supervisor.description(name).exists()]
        if gone:
            self._leave(gone, self.environment("consumer"))
        for name in gone:
            self.supervisor.description(name).unlink()

    def _leave(self, gone: list[str], environment: dict[str, str]) -> None:
        command = json.loads(self.supervisor.description("consumer").read_text())["command"]
        log = self.supervisor.log("leave")
        with console.status(f"Processing what {', '.join(gone)} left ..."), log.open("a") as output:
            sessions = ["=".join(consumer_login(self._settings, name)) for name in gone]
            done = subprocess.run([*command, "--leave", *sessions], env=environment, stderr=output, check=False)
        if done.returncode != 0:
            raise StackError(f"the session of {', '.join(gone)} could not be ended:\n{self._tail('leave')}")

    @override
    def down(self) -> None:
        with console.status("Stopping ..."):
            self.supervisor.stop()
        ports = self._claimed_ports()
        self._ports.unlink(missing_ok=True)
        if taken := _taken(ports):
            raise StackError(
                f"no supervisor runs, but {', '.join(taken)} are in use, perhaps by parts of an earlier stack"
            )

    @override
    def stop(self, part: str) -> None:
        if not self.supervisor.is_stopped(part):
            with self.supervisor.connected() as supervisor:
                supervisor.stopProcess(part)

    @override
    def running(self) -> bool:
        return self.supervisor.pid() is not None

    @override
    def states(self) -> list[tuple[str, str, str]]:
        processes = self.supervisor.processes()
        rows: list[tuple[str, str, str]] = []
        for part in local_parts(self._settings, build.paths()):
            state = processes[part.name]["statename"].lower() if part.name in processes else "stopped"
            # Supervisor calls a process running only after a second. A part that answers is healthy even before that.
            if state in ("starting", "running") and part.healthy():
                state = "healthy"
            elif state == "running":
                state = "unhealthy"
            rows.append((part.name, state, part.address))
        return rows

    @override
    def logs(self, part: str | None, lines: int, *, follow: bool) -> None:
        files = [self.supervisor.log(part)] if part else sorted((self._run / "logs").glob("*.log"))
        files = [file for file in files if file.exists()]
        if not files:
            raise StackError(f"no logs of {part or 'the stack'} in {self._run / 'logs'}; is it up?")
        subprocess.run(["tail", "-n", str(lines), *(["-F"] if follow else []), *map(str, files)], check=False)

    @override
    def log_text(self, part: str) -> str:
        log = self.supervisor.log(part)
        return log.read_text(errors="replace") if log.exists() else ""

    @override
    def run_once(self, timeout_seconds: float) -> subprocess.CompletedProcess[str]:
        described = json.loads(self.supervisor.description("producer").read_text())
        return subprocess.run(
            [*described["command"], "--once"],
            env={**described["environment"], **self._once},
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )

    @override
    def environment(self, part: str) -> dict[str, str]:
        description = self.supervisor.description(part)
        return json.loads(description.read_text())["environment"] if description.exists() else {}

    @override
    def authority(self) -> str:
        return (self._settings.tls_folder / "ca.crt").read_text()

    @property
    def _ports(self) -> Path:
        """The file with the ports that the stack took when it was started."""
        return self._run / "ports.json"

    def _claimed_ports(self) -> dict[str, int]:
        return json.loads(self._ports.read_text()) if self._ports.exists() else {}

    def _claim_ports(self, running: bool) -> None:
        """Refuses ports that another program uses, but not those that this stack took when it was started."""
        ports = self._settings.ports()
        own = self._claimed_ports().values() if running else ()
        check_ports({name: port for name, port in ports.items() if port not in own})
        self._ports.write_text(json.dumps(ports))

    def _prepare(self, parts: list[Part], running: Set[str]) -> None:
        """Describes new parts, stops those whose settings have changed, and removes those that are no longer needed."""
        if not running:
            for folder in ("parts", "logs"):
                (self._run / folder).mkdir(mode=0o700, exist_ok=True)
            for stale in (*self._run.glob("*.healthy"), *self._run.glob("logs/*.log*")):
                stale.unlink()
        waves = {part.name: part.wave for part in parts}
        for name in sorted(running - waves.keys()):
            console.print(f"{name} stops: it is no longer needed.")
        for part in parts:
            description = self.supervisor.description(part.name)
            now: dict[str, Any] = {"command": part.command, "environment": environment_of(part)}
            if part.name in running:
                changed = _changed(json.loads(description.read_text()), now)
                if not changed:
                    continue
                console.print(f"{part.name} starts again: {', '.join(changed)} changed{_program(changed, now)}.")
                self.stop(part.name)
            elif running:
                console.print(f"{part.name} is new.")
            # Only this user may read it.
            description.touch(mode=0o600)
            description.write_text(json.dumps(now))
        self.supervisor.prepare(waves, system_environment())

    def _start(self, part: str) -> None:
        if self.supervisor.is_stopped(part):
            # The last heartbeat of the previous process does not count.
            (self._run / f"{part}.healthy").unlink(missing_ok=True)
            self.supervisor.start_process(part)

    def _wait_healthy(self, parts: list[Part], status: Any) -> None:
        deadline = time.monotonic() + START_SECONDS
        waiting = {part.name: part for part in parts}
        while waiting:
            status.update(f"Waiting for {', '.join(waiting)} ...")
            for name, part in list(waiting.items()):
                if part.healthy():
                    del waiting[name]
            processes = self.supervisor.processes()
            failed = [name for name in waiting if processes[name]["state"] == ProcessStates.FATAL]
            if waiting and (failed or time.monotonic() > deadline):
                name = next(iter(failed or waiting))
                log = self.supervisor.log(name)
                raise StackError(f"{name} does not become healthy. The end of {log}:\n{self._tail(name)}")
            time.sleep(0.05)

    def _tail(self, part: str) -> str:
        return "\n".join(self.log_text(part).splitlines()[-5:])


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The names of what differs between two descriptions of a part: variables, or its command."""
    old, new = ({"command": part["command"], **settings_among(part["environment"])} for part in (before, now))
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _program(changed: Collection[str], now: dict[str, Any]) -> str:
    """The program that a part runs now, if it has changed: usually because this shell has another PATH."""
    if "command" in changed:
        return f", to {shlex.join(now['command'])}"
    return f", to {now['environment']['OTELCOL']}" if "OTELCOL" in changed else ""


def check_ports(ports: Mapping[str, int]) -> None:
    """Refuses ports that are in use.

    Raises:
        StackError: Names each port, with its variable.
    """
    if taken := _taken(ports):
        raise StackError(
            f"in use by another program: {', '.join(taken)}; stop it (`make down` if it is this stack in another "
            "runtime), or set the variable to another port in .env"
        )


def _taken(ports: Mapping[str, int]) -> list[str]:
    return [f"{name}={port}" for name, port in ports.items() if not port_is_free(port)]


def port_is_free(port: int) -> bool:
    """Tells whether the stack can listen on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
