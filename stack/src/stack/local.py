"""The local runtime: the parts as processes of this machine, under supervisor."""

import hashlib
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from dotenv import dotenv_values
from supervisor.states import ProcessStates
from supervisor.xmlrpc import SupervisorTransport

import certificates
from stack import build, launch
from stack.backends import check_local, write_prometheus_configuration
from stack.console import console
from stack.errors import StackError
from stack.part import Part
from stack.parts import ALWAYS_SAMPLED, TELEMETRY_DEFAULTS, local_parts
from stack.settings import ROOT, Settings

START_SECONDS = 60.0
# What each part gets of the system that it runs on, whatever the case of the name: the proxies' are written in either.
SYSTEM_VARIABLES = frozenset(
    {"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"}
    | {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
)
STOPPED = (ProcessStates.STOPPED, ProcessStates.EXITED, ProcessStates.FATAL, ProcessStates.UNKNOWN)


class LocalRuntime:
    """Starts, stops and shows the stack without Docker."""

    name = "local"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._run = settings.run_dir
        # A socket's path may have 107 characters at most, and the checkout may be deep.
        digest = hashlib.sha256(str(self._run.resolve()).encode()).hexdigest()[:16]
        self._socket = Path(tempfile.gettempdir()) / f"mqtt-tracing-{os.getuid()}-{digest}.sock"

    # ------------------------------------------------------------------ commands

    def up(self) -> None:
        """Starts what does not run yet, again what has other settings now, and returns when all of it is healthy.

        Raises:
            StackError: If a port is taken, a part does not become healthy, or it runs with other parts than these.
        """
        check_local(self._settings)
        binaries = build.prepare(self._settings)
        parts = local_parts(self._settings, binaries)
        running = self.running()
        if running and self._names() != {part.name for part in parts}:
            raise StackError(
                "the stack runs with other parts than CONSUMERS, BACKENDS and SCOUT_* ask for; run `make down up`"
            )
        self._claim_ports(running)
        if self._settings.mqtt_tls:
            certificates.prepare(self._settings.tls_folder)
        if "prometheus" in self._settings.backends:
            write_prometheus_configuration(self._settings)
        if running:
            self._stop_changed(parts)
        else:
            self._write(parts)
            self._start_supervisor()
        started = time.monotonic()
        with console.status("Starting ...") as status:
            for wave in sorted({part.wave for part in parts}):
                members = [part for part in parts if part.wave == wave]
                for part in members:
                    self._start(part.name)
                self._wait_healthy(members, status)
        console.print(f"All {len(parts)} parts are healthy after {time.monotonic() - started:.1f} s.")

    def end_sessions(self, names: list[str]) -> None:
        """Lets a consumer process what the sessions of those that are gone still hold, and end them.

        Raises:
            StackError: If a session could not be emptied.
        """
        gone = [name for name in names if self._description(name).exists()]
        if not gone:
            return
        described = json.loads(self._description("consumer").read_text())
        with console.status(f"Processing what {', '.join(gone)} left ..."), self._log("leave").open("a") as log:
            command = [*described["command"], "--leave", *gone]
            done = subprocess.run(command, env=described["environment"], stderr=log, check=False)
        if done.returncode != 0:
            raise StackError(f"the session of {', '.join(gone)} could not be ended:\n{self._tail('leave')}")
        for name in gone:
            self._description(name).unlink()

    def down(self) -> None:
        """Stops everything."""
        if not self.running():
            return
        pid = int((self._run / "supervisord.pid").read_text())
        with console.status("Stopping ..."), self._supervisor() as supervisor:
            supervisor.shutdown()
        deadline = time.monotonic() + 30
        while _alive(pid) and time.monotonic() < deadline:
            time.sleep(0.05)

    def stop(self, part: str) -> None:
        """Stops one part, which runs or not; ``up`` starts it again."""
        with self._supervisor() as supervisor:
            if supervisor.getProcessInfo(part)["state"] not in STOPPED:
                supervisor.stopProcess(part)

    def states(self) -> list[tuple[str, str, str]]:
        """Name, state and address of each part."""
        parts = local_parts(self._settings, build.paths())
        states = {}
        if self.running():
            with self._supervisor() as supervisor:
                states = {info["name"]: info["statename"].lower() for info in supervisor.getAllProcessInfo()}
        rows: list[tuple[str, str, str]] = []
        for part in parts:
            state = states.get(part.name, "stopped")
            # Supervisor waits a second before it calls a process running; what answers is healthy before that.
            if state in ("starting", "running") and part.healthy():
                state = "healthy"
            elif state == "running":
                state = "unhealthy"
            rows.append((part.name, state, part.address))
        return rows

    def logs(self, part: str | None, follow: bool) -> None:
        """Prints the end of the logs of one part or of all."""
        files = [self._log(part)] if part else sorted((self._run / "logs").glob("*.log"))
        files = [file for file in files if file.exists()]
        if not files:
            raise StackError(f"no logs of {part or 'the stack'} in {self._run / 'logs'}; is it up?")
        subprocess.run(["tail", "-n", "20", *(["-F"] if follow else []), *map(str, files)], check=False)

    def log_text(self, part: str) -> str:
        """The whole log of a part."""
        log = self._log(part)
        return log.read_text(errors="replace") if log.exists() else ""

    def run_once(self, timeout_seconds: float) -> subprocess.CompletedProcess[str]:
        """Publishes one reading with the producer's own program, which prints its trace id."""
        described = json.loads(self._description("producer").read_text())
        return subprocess.run(
            [*described["command"], "--once"],
            env={**described["environment"], **ALWAYS_SAMPLED},
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )

    def environment(self, part: str) -> dict[str, str]:
        """The variables that a part was started with."""
        description = self._run / "parts" / f"{part}.json"
        return json.loads(description.read_text())["environment"] if description.exists() else {}

    def authority(self) -> str:
        """The certificate, as PEM, of the authority that vouches for the broker."""
        return (self._settings.tls_folder / "ca.crt").read_text()

    def running(self) -> bool:
        """Whether this stack's supervisor answers."""
        if not self._socket.exists():
            return False
        try:
            with self._supervisor() as supervisor:
                supervisor.getPID()
        except OSError:
            return False
        return True

    # ------------------------------------------------------------------ how

    @contextmanager
    def _supervisor(self) -> Iterator[Any]:
        # The address is not used: the transport goes through the socket.
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        with ServerProxy("http://127.0.0.1", transport=transport) as proxy:
            yield proxy.supervisor

    def _claim_ports(self, running: bool) -> None:
        """Refuses ports that another program has; those that this stack has since it was started are its own."""
        ports = self._settings.ports()
        claimed = self._run / "ports.json"
        own = json.loads(claimed.read_text()).values() if running else ()
        check_ports({name: port for name, port in ports.items() if port not in own})
        self._run.mkdir(mode=0o700, parents=True, exist_ok=True)
        claimed.write_text(json.dumps(ports))

    def _write(self, parts: list[Part]) -> None:
        """Writes supervisor's configuration, and each part's command and environment, readable by this user only."""
        for folder in (self._run / "parts", self._run / "logs"):
            folder.mkdir(mode=0o700, exist_ok=True)
        for stale in (*self._run.glob("*.healthy"), *(self._run / "logs").glob("*.log*")):
            stale.unlink()
        programs = ""
        for part in parts:
            self._describe(part)
            programs += PROGRAM.format(
                name=part.name,
                command=_quoted(sys.executable, launch.__file__, str(self._description(part.name))),
                # Supervisor stops them in the opposite order.
                wave=part.wave,
                log=_escaped(self._log(part.name)),
            )
        user = "user=root" if os.getuid() == 0 else ""
        (self._run / "supervisord.conf").write_text(
            SUPERVISOR.format(socket=_escaped(self._socket), run=_escaped(self._run), user=user) + programs
        )

    def _describe(self, part: Part) -> None:
        description = self._description(part.name)
        description.touch(mode=0o600)
        description.write_text(json.dumps({"command": part.command, "environment": _environment(part)}))

    def _stop_changed(self, parts: list[Part]) -> None:
        """Stops the parts that run with other settings than now, so that they start with these."""
        for part in parts:
            described = json.loads(self._description(part.name).read_text())
            before = {"command": described["command"], **_settings_among(described["environment"])}
            now = {"command": part.command, **_settings_among(_environment(part))}
            if changed := sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)):
                console.print(f"{part.name} starts again: {', '.join(changed)} changed.")
                self.stop(part.name)
                self._describe(part)

    def _start_supervisor(self) -> None:
        subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._run / "supervisord.conf")],
            cwd=self._run,
            env=_system_environment(),
            check=True,
            capture_output=True,
        )
        deadline = time.monotonic() + 10
        while not self.running():
            if time.monotonic() > deadline:
                raise StackError(f"supervisor does not answer; see {self._run / 'supervisord.log'}")
            time.sleep(0.02)

    def _names(self) -> set[str]:
        with self._supervisor() as supervisor:
            return {info["name"] for info in supervisor.getAllProcessInfo()}

    def _start(self, name: str) -> None:
        with self._supervisor() as supervisor:
            if supervisor.getProcessInfo(name)["state"] in STOPPED:
                # The last beat of its predecessor says nothing of it.
                (self._run / f"{name}.healthy").unlink(missing_ok=True)
                try:
                    supervisor.startProcess(name, False)
                except Fault as fault:
                    raise StackError(f"{name} does not start: {fault.faultString}") from None

    def _wait_healthy(self, parts: list[Part], status: Any) -> None:
        deadline = time.monotonic() + START_SECONDS
        waiting = {part.name: part for part in parts}
        while waiting:
            status.update(f"Waiting for {', '.join(waiting)} ...")
            for name, part in list(waiting.items()):
                if part.healthy():
                    del waiting[name]
            with self._supervisor() as supervisor:
                failed = [name for name in waiting if supervisor.getProcessInfo(name)["state"] == ProcessStates.FATAL]
            if waiting and (failed or time.monotonic() > deadline):
                name = next(iter(failed or waiting))
                raise StackError(f"{name} does not become healthy. The end of {self._log(name)}:\n{self._tail(name)}")
            time.sleep(0.05)

    def _description(self, part: str) -> Path:
        return self._run / "parts" / f"{part}.json"

    def _log(self, part: str) -> Path:
        return self._run / "logs" / f"{part}.log"

    def _tail(self, part: str) -> str:
        return "\n".join(self.log_text(part).splitlines()[-5:])


SUPERVISOR = """\
[unix_http_server]
file={socket}
chmod=0700

[supervisord]
logfile={run}/supervisord.log
pidfile={run}/supervisord.pid
childlogdir={run}/logs
{user}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""

PROGRAM = """
[program:{name}]
command={command}
priority={wave}
autostart=false
autorestart=true
startsecs=1
startretries=5
stopwaitsecs=8
killasgroup=true
redirect_stderr=true
stdout_logfile={log}
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=1
"""


def _environment(part: Part) -> dict[str, str]:
    """What a part gets: its own variables, and of this machine's environment and ``.env`` what it reads."""
    given = {**{name: value for name, value in dotenv_values(ROOT / ".env").items() if value}, **os.environ}
    wanted = SYSTEM_VARIABLES | part.reads | part.defaults.keys()
    read = {name: value for name, value in given.items() if name.upper() in wanted}
    if "OTEL_SERVICE_NAME" not in part.environment:
        return {**part.defaults, **read, **part.environment}
    of_sdk = {name: value for name, value in given.items() if name.startswith("OTEL_")}
    return {**TELEMETRY_DEFAULTS, **part.defaults, **of_sdk, **read, **part.environment}


def _system_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.upper() in SYSTEM_VARIABLES}


def _settings_among(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables without those of the system, which differ from one terminal to the next."""
    return {name: value for name, value in environment.items() if name.upper() not in SYSTEM_VARIABLES}


def _escaped(value: object) -> str:
    return str(value).replace("%", "%%")


def _quoted(*words: str) -> str:
    return _escaped(shlex.join(words))


def check_ports(ports: Mapping[str, int]) -> None:
    """Refuses ports that are taken.

    Raises:
        StackError: Names each, with its variable.
    """
    if taken := [f"{name}={port}" for name, port in ports.items() if not port_is_free(port)]:
        raise StackError(
            f"in use by another program: {', '.join(taken)}; stop it, or set the variable to another port in .env"
        )


def port_is_free(port: int) -> bool:
    """Whether this machine lets the stack listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
