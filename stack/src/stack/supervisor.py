"""The supervisor of the processes of the local runtime."""

import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import psutil
from supervisor.states import ProcessStates
from supervisor.xmlrpc import SupervisorTransport

from stack import launch
from stack.errors import StackError

START_SECONDS = 10.0
STOP_SECONDS = 30.0
STOPPED = (ProcessStates.STOPPED, ProcessStates.EXITED, ProcessStates.FATAL, ProcessStates.UNKNOWN)
OF_ANOTHER_USER = "the stack runs under process {}, which is another user's"

CONFIGURATION = """\
[unix_http_server]
file={socket}
chmod=0700

[supervisord]
logfile={folder}/supervisord.log
pidfile={folder}/supervisord.pid
childlogdir={folder}/logs
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


class Supervisor:
    """Starts processes, restarts those that end, and logs what they print.

    Args:
        folder: The folder for its configuration and its logs; each folder has its own supervisor.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._configuration = self._folder / "supervisord.conf"
        # The path of a socket has at most 107 characters; the path of the checkout may be longer.
        digest = hashlib.sha256(str(self._folder).encode()).hexdigest()[:16]
        self.socket = Path(tempfile.gettempdir()) / f"mqtt-tracing-{os.getuid()}-{digest}.sock"

    def log(self, name: str) -> Path:
        """The path of a process's log."""
        return self._folder / "logs" / f"{name}.log"

    def description(self, name: str) -> Path:
        """The path of the file that says what a process runs, as ``launch`` takes it."""
        return self._folder / "parts" / f"{name}.json"

    def prepare(self, waves: Mapping[str, int], environment: Mapping[str, str]) -> None:
        """Prepares these processes without starting any, and stops all others.

        Args:
            waves: The wave of each process, by its name; the last wave is stopped first. Each has its description.
            environment: The environment of the supervisor itself, which starts if it does not run.

        Raises:
            StackError: If it does not start.
        """
        text = CONFIGURATION.format(
            socket=_escaped(self.socket),
            folder=_escaped(self._folder),
            user="user=root" if os.getuid() == 0 else "",
        )
        for name, wave in waves.items():
            command = shlex.join((sys.executable, launch.__file__, str(self.description(name))))
            text += PROGRAM.format(name=name, command=_escaped(command), wave=wave, log=_escaped(self.log(name)))
        self._configuration.write_text(text)
        if self._answering_pid():
            self._reload()
        else:
            self._start(environment)

    def _start(self, environment: Mapping[str, str]) -> None:
        subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._configuration)],
            cwd=self._folder,
            env=environment,
            check=True,
            capture_output=True,
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._answering_pid():
            if time.monotonic() > deadline:
                raise StackError(f"supervisor does not answer; see {self._folder / 'supervisord.log'}")
            time.sleep(0.02)

    def _reload(self) -> None:
        with self.connected() as supervisor:
            ((added, changed, removed),) = supervisor.reloadConfig()
            for name in (*removed, *changed):
                supervisor.stopProcessGroup(name)
                supervisor.removeProcessGroup(name)
            for name in (*added, *changed):
                supervisor.addProcessGroup(name)

    def pid(self) -> int | None:
        """The supervisor's process id, even if its socket is gone; None if it does not run."""
        return self._answering_pid() or next(
            (
                process.pid
                for process in psutil.process_iter(["cmdline"])
                if str(self._configuration) in (process.info["cmdline"] or ())
            ),
            None,
        )

    def stop(self) -> None:
        """Stops the processes, then itself.

        Raises:
            StackError: If the supervisor keeps running, or belongs to another user.
        """
        if (pid := self.pid()) is None:
            return
        try:
            supervisor = psutil.Process(pid)
            supervisor.terminate()
            supervisor.wait(STOP_SECONDS)
        except psutil.NoSuchProcess:
            # The supervisor has ended meanwhile.
            return
        except psutil.AccessDenied:
            raise StackError(OF_ANOTHER_USER.format(pid)) from None
        except psutil.TimeoutExpired:
            raise StackError(f"the stack still runs after {STOP_SECONDS:.0f} s, under process {pid}") from None

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """The supervisor's XML-RPC interface during the block."""
        # The address is not used: the transport goes through the socket.
        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        with ServerProxy("http://127.0.0.1", transport=transport) as proxy:
            yield proxy.supervisor

    def processes(self) -> dict[str, dict[str, Any]]:
        """What supervisor knows about each process, by name; empty if supervisor does not run.

        Raises:
            StackError: If supervisor runs, but does not answer.
        """
        if self._answering_pid():
            with self.connected() as supervisor:
                return {info["name"]: info for info in supervisor.getAllProcessInfo()}
        if pid := self.pid():
            if psutil.Process(pid).uids().real != os.getuid():
                raise StackError(OF_ANOTHER_USER.format(pid))
            raise StackError(f"the stack runs under process {pid}, whose socket is gone; run `make down up`")
        return {}

    def is_stopped(self, name: str) -> bool:
        """Tells whether a process does not run and will not be restarted automatically."""
        return self.processes()[name]["state"] in STOPPED

    def start_process(self, name: str) -> None:
        """Starts a stopped process without waiting for it.

        Raises:
            StackError: If it cannot be started.
        """
        with self.connected() as supervisor:
            try:
                supervisor.startProcess(name, False)
            except Fault as fault:
                raise StackError(f"{name} does not start: {fault.faultString}") from None

    def _answering_pid(self) -> int | None:
        if not self.socket.exists():
            return None
        try:
            with self.connected() as supervisor:
                return supervisor.getPID()
        except OSError:
            return None


def _escaped(value: object) -> str:
    return str(value).replace("%", "%%")
