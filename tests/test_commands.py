"""The commands behind make: up, down, ps, and what they print if something prevents them from working."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from harness import Stack, eventually
from stack.part import local_url
from stack.settings import ROOT


def processes_of(stack: Stack) -> dict[int, str]:
    """Pid and command line of each process of a stack: its supervisor and all descendants."""
    found = {int((stack.settings.run_dir / "supervisord.pid").read_text())}
    parents: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended
            parents[int(process.name)] = int(process.joinpath("stat").read_text().rpartition(")")[2].split()[1])
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in found}


def test_up_can_be_repeated_and_down_leaves_nothing(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack()
    stack.up()
    pids = {name: stack.pid(name) for name, _, _ in stack.runtime.states()}

    again = stack.run("up")
    assert again.returncode == 0, again.stdout + again.stderr
    assert {name: stack.pid(name) for name in pids} == pids

    processes = processes_of(stack)
    assert len(processes) > len(pids)
    down = stack.run("down")
    assert (down.returncode, down.stdout) == (0, "The stack is down.\n")
    assert [command for pid, command in processes.items() if Path(f"/proc/{pid}").exists()] == []
    for name, port in stack.settings.ports().items():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, f"{name}={port} still answers"
    assert stack.run("down").returncode == 0
    # No part waits for one that stopped earlier.
    assert "SIGKILL" not in (stack.settings.run_dir / "supervisord.log").read_text()


@pytest.mark.parametrize(
    ("changed", "value", "parts"),
    [
        ("WORKERS", "3", ["consumer"]),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_on", ["echo", "consumer", "producer"]),
        ("LANG", "en_US.UTF-8", []),
    ],
)
def test_up_starts_again_what_has_other_settings_now(
    restarted_stack: Stack, changed: str, value: str, parts: list[str]
) -> None:
    stack = restarted_stack
    pids = {name: stack.pid(name) for name, _, _ in stack.runtime.states()}
    stack.environment[changed] = value
    done = stack.run("up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"(\S+) starts again: (\S+) changed\.\n", done.stdout) == [(part, changed) for part in parts]
    assert [name for name in pids if stack.pid(name) != pids[name]] == parts
    assert all(stack.runtime.environment(part)[changed] == value for part in parts)
    assert stack.run("verify").returncode == 0


@pytest.fixture(scope="module")
def restarted_stack(new_shared_stack: Callable[..., Stack]) -> Stack:
    stack = new_shared_stack()
    stack.up()
    return stack


def test_a_part_gets_what_it_reads_and_nothing_else_of_the_shell(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack()
    of_the_shell = {"MAKEFLAGS": "w -- PYTEST_ARGS=-x", "MAKELEVEL": "2", "CLOUD_TOKEN": "of-somebody-else"}
    read = {"WORKERS": "3", "OTEL_TRACES_SAMPLER": "parentbased_always_on", "https_proxy": "http://127.0.0.1:9"}
    stack.environment |= of_the_shell | read | {"NO_PROXY": "127.0.0.1"}
    stack.up()
    for pid, command in processes_of(stack).items():
        environment = Path(f"/proc/{pid}/environ").read_text()
        assert not [name for name in of_the_shell if f"{name}=" in environment], command
        assert "of-somebody-else" not in environment
    for part, _, _ in stack.runtime.states():
        variables = stack.runtime.environment(part)
        assert not of_the_shell.keys() & variables.keys(), part
        assert variables["https_proxy"] == read["https_proxy"]
        assert ("WORKERS" in variables) == (part == "consumer")
        assert ("OTEL_TRACES_SAMPLER" in variables) == (part in ("producer", "consumer", "echo"))
    assert "of-somebody-else" not in "".join(
        file.read_text(errors="replace") for file in stack.settings.run_dir.glob("parts/*")
    )
    # Another terminal uses the same stack.
    for name in of_the_shell:
        del stack.environment[name]
    again = stack.run("up")
    assert again.returncode == 0, again.stderr
    assert "starts again" not in again.stdout


def test_up_prints_what_to_open_and_ps_shows_every_part(stack: Stack) -> None:
    up = stack.run("up").stdout
    assert f"http://127.0.0.1:{stack.settings.viewer_port}/traces" in up
    assert f"mqtt://127.0.0.1:{stack.settings.mqtt_port}" in up
    rows = re.findall(r"│ (\w+) +│ (\w+) +│", stack.run("ps").stdout)
    assert dict(rows) == dict.fromkeys(
        ["collector", "consumer", "echo", "gateway", "issuer", "mosquitto", "producer", "viewer"], "healthy"
    )


def test_down_stops_one_part_and_up_starts_it_again(stack: Stack) -> None:
    down = stack.run("down", "echo")
    assert (down.returncode, down.stdout) == (0, "echo is stopped; `make up` starts it again.\n")
    states = {name: state for name, state, _ in stack.runtime.states()}
    assert states.pop("echo") == "stopped"
    assert set(states.values()) == {"healthy"}
    assert stack.run("down", "echo").returncode == 0
    stack.up()
    eventually(lambda: {state for _, state, _ in stack.runtime.states()} == {"healthy"}, seconds=5)


def test_up_starts_a_stopped_part_with_other_settings(stack: Stack) -> None:
    assert stack.run("down", "echo").returncode == 0
    changed = Stack(stack.settings.run_dir, **stack.values)
    changed.environment["OTEL_LOG_LEVEL"] = "debug"
    done = changed.run("up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "echo starts again: OTEL_LOG_LEVEL changed." in done.stdout
    stack.up()


def test_up_waits_for_the_consumer_that_was_stopped_a_moment_ago(stack: Stack) -> None:
    heartbeat = stack.settings.run_dir / "consumer.healthy"
    assert stack.run("down", "consumer").returncode == 0
    stopped = heartbeat.stat().st_mtime
    stack.up()
    assert heartbeat.stat().st_mtime > stopped


def test_down_names_a_part_that_is_none(stack: Stack) -> None:
    done = stack.run("down", "ecko")
    assert done.returncode == 1
    assert done.stderr.startswith("error: PART is 'ecko'; it must be one of ")
    assert {state for _, state, _ in stack.runtime.states()} == {"healthy"}


def test_logs_prints_the_end_of_one_part_and_says_how_to_see_more(stack: Stack) -> None:
    eventually(lambda: len(stack.runtime.log_text("consumer").splitlines()) > 20)
    done = stack.run("logs", "consumer")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 20
    assert "subscribed to sensors/+/reading" in stack.runtime.log_text("consumer")
    assert "sensors/" in done.stdout
    said = "The last 20 lines; LINES=100 shows more, FOLLOW=1 follows, TRACE=<id> shows one trace.\n"
    assert done.stderr == said


def made(stack: Stack, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs ``make`` with these words."""
    return subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=ROOT,
        env=stack.environment | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_logs_prints_as_many_lines_as_it_is_asked_for(stack: Stack) -> None:
    # The terminal sets LINES to its height, which must not count.
    done = made(stack, "logs", "PART=consumer", "LINES=3", LINES="50")
    assert len(done.stdout.splitlines()) == 3
    assert len(made(stack, "logs", "PART=consumer", LINES="5").stdout.splitlines()) == 20
    done = made(stack, "logs", "LINES=many")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == "error: LINES is 'many'; it must be a number of lines, 1 or more"


def test_logs_goes_on_if_it_is_asked_to(stack: Stack) -> None:
    command = [sys.executable, "-m", "stack", "logs", "consumer", "--lines", "1", "--follow"]
    with subprocess.Popen(
        command, cwd=ROOT, env=stack.environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert all(process.stdout.readline() for _ in range(3))
        os.killpg(process.pid, signal.SIGTERM)


def test_logs_prints_what_was_logged_inside_one_trace(stack: Stack) -> None:
    trace_id = stack.run("verify").stdout.rsplit("/", 1)[1].strip()
    done = made(stack, "logs", f"TRACE={trace_id}")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert re.fullmatch(
        rf"consumer \| .* trace_id={trace_id} processed reading \S+ on sensors/sensor-001/reading.*", line
    )
    for wrong in ("../../x", "ABC"):
        done = made(stack, "logs", f"TRACE={wrong}")
        assert f"error: TRACE is {wrong!r}; it must be a trace id, 32 hexadecimal digits" in done.stderr
    done = made(stack, "logs", f"TRACE={'0' * 31}1")
    assert "error: no log has a line of the trace" in done.stderr


def up_with_a_port_in_use(stack: Stack) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        asked = Stack(stack.settings.run_dir, **stack.values)
        asked.environment["ECHO_PORT"] = str(port)
        done = asked.run("up")
    assert done.returncode == 1
    assert f"in use by another program: ECHO_PORT={port}" in done.stderr


def test_a_port_in_use_is_named_with_its_variable(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack()
    up_with_a_port_in_use(stack)
    assert not stack.runtime.running()


def test_a_stack_that_runs_goes_on_as_it_is_when_a_port_is_in_use(stack: Stack) -> None:
    pids = {name: stack.pid(name) for name, _, _ in stack.runtime.states()}
    up_with_a_port_in_use(stack)
    assert {name: stack.pid(name) for name in pids} == pids


def test_without_a_stack_verify_says_how_to_start_it(new_stack: Callable[..., Stack]) -> None:
    done = new_stack().run("verify")
    assert (done.returncode, done.stderr) == (1, "error: the stack is not up; start it with `make up`\n")


def test_up_takes_the_runtime_that_runs(stack: Stack, tmp_path: Path) -> None:
    # A Docker engine answers now that did not when the stack was started.
    engine = tmp_path / "docker"
    engine.write_text("#!/bin/sh\n")
    engine.chmod(0o755)
    asked = Stack(stack.settings.run_dir, **stack.values)
    del asked.environment["RUNTIME"]
    asked.environment["PATH"] = f"{tmp_path}:{asked.environment['PATH']}"
    done = asked.run("up")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Runtime: local (the stack runs there; ")


def test_settings_that_only_a_part_reads_are_checked_before_anything_stops(stack: Stack) -> None:
    pids = {name: stack.pid(name) for name, _, _ in stack.runtime.states()}
    asked = Stack(stack.settings.run_dir, **stack.values)
    asked.environment |= {"WORKERS": "0", "BUFFER_SIZE": "many", "OTEL_TRACES_SAMPLER": "half", "LANG": "en_US.UTF-8"}
    done = asked.run("up")
    assert (done.returncode, done.stdout) == (2, "")
    assert sorted(done.stderr.splitlines()) == [
        "BUFFER_SIZE is 'many'; it must be a number of messages, 1 to 1000000",
        "OTEL_TRACES_SAMPLER is 'half'; it must be one of always_off, always_on, parentbased_always_off, "
        "parentbased_always_on, parentbased_traceidratio, traceidratio",
        "WORKERS is '0'; it must be a number of threads, 1 to 64",
    ]
    assert {name: stack.pid(name) for name in pids} == pids


def test_two_commands_at_once_wait_for_each_other(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack()
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "stack", "up"],
            cwd=ROOT,
            env=stack.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("Another command is starting or stopping this stack; waiting for it ..." in text for text in said) == 1
    assert stack.run("down").returncode == 0


def test_up_comes_to_its_end_though_nobody_reads_on(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack()
    stack.environment["RUNTIME"] = ""
    command = ["bash", "-o", "pipefail", "-c", f"'{sys.executable}' -m stack up | true"]
    done = subprocess.run(command, cwd=ROOT, env=stack.environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert {state for _, state, _ in stack.runtime.states()} == {"healthy"}


def test_make_comes_to_its_end_though_nobody_reads_on(stack: Stack) -> None:
    command = ["bash", "-o", "pipefail", "-c", "make up | head -n 1"]
    done = subprocess.run(command, cwd=ROOT, env=stack.environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = Stack(tmp_path / "file" / "run").run("up")
    assert (done.returncode, done.stdout) == (1, "")
    said = f"error: RUN_DIR is {tmp_path}/file/run, a folder that cannot hold logs and state: Not a directory\n"
    assert done.stderr == said


def test_up_starts_parts_that_are_new_and_stops_those_that_are_no_longer_needed(restarted_stack: Stack) -> None:
    stack = restarted_stack
    before = {name: stack.pid(name) for name, _, _ in stack.runtime.states()}
    asked = Stack(stack.settings.run_dir, **stack.values)
    asked.environment = stack.environment | {"CONSUMERS": "2", "COLLECTOR_EXTRAS": "zpages"}
    done = asked.run("up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "consumer-2 is new.\n" in done.stdout
    assert "│ consumer-2 " in asked.run("ps").stdout
    # Only parts whose settings changed are restarted.
    assert [name for name, pid in before.items() if asked.pid(name) != pid] == ["collector", "consumer"]
    assert asked.run("verify").returncode == 0

    done = stack.run("up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "consumer-2 stops: it is no longer needed.\n" in done.stdout
    assert stack.runtime.supervisor.processes().keys() == before.keys()
    assert "unsubscribing; " in stack.runtime.log_text("leave")
    assert stack.run("verify").returncode == 0


def test_the_services_send_by_grpc_if_they_are_asked_to(restarted_stack: Stack) -> None:
    stack = restarted_stack
    asked = Stack(stack.settings.run_dir, **stack.values)
    asked.environment = stack.environment | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    for one, protocol, port in (
        (asked, "grpc", stack.settings.otlp_grpc_port),
        (stack, "http/protobuf", stack.settings.otlp_http_port),
    ):
        done = one.run("up")
        assert done.returncode == 0, done.stdout + done.stderr
        for service in ("producer", "consumer", "echo"):
            variables = stack.runtime.environment(service)
            assert variables["OTEL_EXPORTER_OTLP_PROTOCOL"] == protocol
            assert variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == local_url(port)
        assert one.run("verify").returncode == 0


def test_another_program_of_another_shell_is_named(stack: Stack, tmp_path: Path) -> None:
    (running,) = re.findall(r'"OTELCOL": "(.*?)"', (stack.settings.run_dir / "parts" / "collector.json").read_text())
    (tmp_path / "otelcol-contrib").symlink_to(running)
    asked = Stack(stack.settings.run_dir, **stack.values)
    asked.environment["PATH"] = f"{tmp_path}:{asked.environment['PATH']}"
    done = asked.run("up")
    assert done.returncode == 0, done.stderr
    assert f"collector starts again: OTELCOL changed, to {tmp_path}/otelcol-contrib." in done.stdout
    assert f"gateway starts again: command changed, to {tmp_path}/otelcol-contrib --config " in done.stdout
    stack.up()


def test_a_stack_whose_socket_is_gone_is_seen_and_stopped(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack()
    stack.up()
    processes = processes_of(stack)
    stack.runtime.supervisor.socket.unlink()
    (stack.settings.run_dir / "supervisord.pid").unlink()
    assert stack.run("verify").returncode == 0
    for command in ("up", "ps"):
        done = stack.run(command)
        assert done.returncode == 1, command
        assert re.fullmatch(
            r"error: the stack runs under process \d+, whose socket is gone; run `make down up`\n", done.stderr
        )
    down = stack.run("down")
    assert (down.returncode, down.stdout) == (0, "The stack is down.\n")
    assert [command for pid, command in processes.items() if Path(f"/proc/{pid}").exists()] == []


def test_parts_without_their_supervisor_are_named_by_their_ports(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack()
    stack.up()
    processes = processes_of(stack)
    (supervisor,) = [pid for pid, command in processes.items() if "supervisord" in command]
    os.kill(supervisor, signal.SIGKILL)
    try:
        eventually(lambda: not Path(f"/proc/{supervisor}").exists())
        down = stack.run("down")
        assert down.returncode == 1
        assert f"ECHO_PORT={stack.settings.echo_port}" in down.stderr
    finally:
        for pid in processes.keys() - {supervisor}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


SCOUT = {
    "SCOUT_CLIENT_ID": "id",
    "SCOUT_CLIENT_SECRET": "very-secret",
    "SCOUT_TOKEN_URL": "https://scout.example/token",
    "SCOUT_OTLP_ENDPOINT": "https://scout.example/otlp",
}


@pytest.mark.parametrize("missing", SCOUT)
def test_a_half_filled_set_of_scout_values_is_refused_by_name(new_stack: Callable[..., Stack], missing: str) -> None:
    stack = new_stack()
    stack.environment |= {name: value for name, value in SCOUT.items() if name != missing}
    done = stack.run("up")
    assert done.returncode == 2
    assert done.stderr.startswith(f"{missing} not set, but ")
    assert "very-secret" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_passwords_are_in_no_log_and_no_command_line(stack: Stack) -> None:
    settings = stack.settings
    secrets = [
        settings.mqtt_producer_password.get_secret_value(),
        settings.mqtt_consumer_password.get_secret_value(),
        settings.local_scout_client_secret.get_secret_value(),
    ]
    logs = "".join(log.read_text(errors="replace") for log in (settings.run_dir / "logs").iterdir())
    command_lines = "".join(processes_of(stack).values())
    assert logs
    assert command_lines
    for secret in secrets:
        assert secret not in logs
        assert secret not in command_lines
    assert (settings.run_dir / "parts" / "collector.json").stat().st_mode & 0o077 == 0
    assert os.stat(settings.run_dir / "mosquitto" / "dynamic-security.json").st_mode & 0o077 == 0
