"""The commands behind make: up, down, ps, and what they say when something is in the way."""

import os
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from harness import Stack, eventually


def processes_of(stack: Stack) -> dict[int, str]:
    """Pid and command line of each process of a stack: its supervisor, and what came of it."""
    found = {int((stack.settings.run_dir / "supervisord.pid").read_text())}
    parents: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
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
    # Nobody waits for a part that has stopped before it.
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
    # From another terminal it is the same stack.
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


def test_logs_prints_the_end_of_one_part(stack: Stack) -> None:
    done = stack.run("logs", "consumer")
    assert done.returncode == 0
    assert "subscribed to sensors/+/reading" in stack.runtime.log_text("consumer")
    assert "sensors/" in done.stdout


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
    assert os.stat(settings.run_dir / "mosquitto" / "passwords").st_mode & 0o077 == 0
