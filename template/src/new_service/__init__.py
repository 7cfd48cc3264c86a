"""``make new-service``: a service from the template, wired into the stack."""

import importlib.util
import re
import shutil
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import copier
from copier.errors import DirtyLocalWarning
from paho.mqtt.client import topic_matches_sub

from stack.console import console
from stack.errors import StackError
from stack.parts import consumer_names
from stack.services import Service
from stack.settings import MOST_CONSUMERS, ROOT, Settings

COMPOSE, DIGESTS = "docker-compose.yml", "docker-compose.digests.yml"
SECRETS, BROKER = "kubernetes/base/kustomization.yaml", "kubernetes/base/mosquitto.yaml"
# New entries are inserted before these lines.
INCLUDES = "# `make new-service` adds its services here.\n"
USERS = "# `make new-service` adds its users here.\n"
# The folders that contain tests.
TESTS = ("tests", "*/tests", "*/*/tests")


def new_service(name: str, answers: Mapping[str, str]) -> None:
    """Makes a service's folder, and adds it to Compose, the broker's users, ``.env.example`` and the lock files.

    The local runtime, the tests and the linters find the folder by themselves.

    Args:
        name: The service's name.
        answers: Answers to the other questions of ``copier.yml``, by their names; the default if one is missing.

    Raises:
        StackError: If the name or an answer is not valid; then nothing has changed. If the package index cannot be
            reached; then only the lock files are missing.
    """
    if not name:
        raise StackError("NAME is not set; it is the name of the service, as in make new-service NAME=alerter")
    service = Service(name, {})
    _check_free(service)
    username, password = service.user
    secret = f"mqtt-{name}"
    added = {
        (COMPOSE, INCLUDES): f"- {name}/compose.yml\n",
        (DIGESTS, INCLUDES): f"{name}: {{build: *pinned}}\n",
        (COMPOSE, USERS): f"{username}: ${{{username}:-{name}}}\n{password}: ${{{password}:-{name}-secret}}\n",
        (SECRETS, USERS): f"- name: {secret}\n  literals: [{username}={name}, {password}={name}-secret]\n"
        "  options:\n    labels: {app.kubernetes.io/component: broker}\n",
        (BROKER, USERS): f"- secretRef: {{name: {secret}}}\n",
    }
    for file, marker in added:
        if marker not in (ROOT / file).read_text():
            raise StackError(f"{file} lacks the line {marker.strip()!r}, which shows where a service goes")
    chosen = _copy({**answers, "name": name})
    for (file, marker), lines in added.items():
        text = (ROOT / file).read_text()
        indent = re.findall(f"^( *){re.escape(marker)}", text, re.M)[0]
        (ROOT / file).write_text(text.replace(indent + marker, textwrap.indent(lines, indent) + indent + marker))
    _append(ROOT / "mosquitto" / "acl", _acl(service, chosen))
    _append(ROOT / ".env.example", _variables(service, chosen))
    # The order of imports and the line breaks depend on the name.
    for command in (["check", "--select", "I", "--fix"], ["format"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, "--quiet", name], cwd=ROOT, check=True)
    console.print(f"Made {name}/. What it does with a message: handle in {name}/src/{service.module}/handler.py")
    _lock(name)
    console.print("Next: make up")


def _check_free(service: Service) -> None:
    name, module = service.name, service.module
    variables = tuple(variable.lower() for variable in Settings.model_fields)
    if (ROOT / name).exists():
        problem = f"there is {name}/ already"
    elif name in consumer_names(MOST_CONSUMERS):
        problem = "a consumer has this name"
    elif any(variable.startswith((f"{module}_", f"mqtt_{module}_")) for variable in variables):
        problem = f"the stack has variables that begin with {module.upper()}_ or MQTT_{module.upper()}_"
    elif module.isidentifier() and importlib.util.find_spec(module):
        problem = "Python has a module of this name"
    elif [
        *ROOT.glob(f"tests/{module}.py"),
        *(path for tests in TESTS for path in ROOT.glob(f"{tests}/test_{module}.py")),
    ]:
        problem = "a file of the tests has this name"
    else:
        return
    raise StackError(f"NAME is {name!r}, which is taken: {problem}; choose another")


def _copy(answers: Mapping[str, str]) -> Mapping[str, Any]:
    """Fills in the template; returns all answers, including the defaults.

    Raises:
        StackError: If an answer is not valid; then there is no folder.
    """
    for answer, output in (("url", "http"), ("output_topic", "mqtt")):
        if answer in answers and answers.get("output", "http") != output:
            raise StackError(
                f"{answer.upper()} is {answers[answer]!r}, but OUTPUT is not {output}; give one or the other"
            )
    folder = ROOT / answers["name"]
    try:
        with warnings.catch_warnings():
            # Use the template of the checkout, whether committed or not.
            warnings.simplefilter("ignore", DirtyLocalWarning)
            data = {**answers, "standalone": False}
            worker = copier.run_copy(str(ROOT), folder, data, vcs_ref="HEAD", defaults=True, quiet=True)
    except ValueError as error:
        if not (found := re.search(r"for (?:question )?'(\w+)': (.*)", str(error), re.S)):
            raise
        question, problem = found.groups()
        raise StackError(f"{question.upper()} is {answers[question]!r}; {problem.strip()}") from None
    chosen = worker.answers.combined
    taken = chosen["topic_filter"]
    for published in _published(chosen):
        if topic_matches_sub(taken, published):
            shutil.rmtree(folder)
            what = f"which takes in what it publishes on {published}, without end"
            raise StackError(f"TOPIC_FILTER is {taken!r}, {what}; choose another")
    return chosen


def _published(chosen: Mapping[str, Any]) -> list[str]:
    """The topics that the service publishes on: its output, and the dead letters."""
    outputs = [chosen["output_topic"]] if chosen["output"] == "mqtt" else []
    return [*outputs, f"dead-letter/{chosen['topic_filter']}"]


def _acl(service: Service, chosen: Mapping[str, Any]) -> str:
    username, _ = service.user
    lines = ["", f"user @{username}@", f"clients {service.name}", f"topic read {chosen['topic_filter']}"]
    lines += [*(f"topic write {topic}" for topic in _published(chosen)), "topic readwrite heartbeat/%c"]
    if chosen["output"] == "mqtt":
        lines += ["", "user @MQTT_OPERATOR_USERNAME@", f"topic read {chosen['output_topic']}"]
    return "\n".join(lines) + "\n"


def _variables(service: Service, chosen: Mapping[str, Any]) -> str:
    prefix = service.module.upper()
    username, password = service.user
    if chosen["output"] == "mqtt":
        target = ["# What it subscribes to, and where it publishes", f"{prefix}_OUTPUT_TOPIC={chosen['output_topic']}"]
    else:
        target = [
            "# What it subscribes to, and where it posts to (default: as made)",
            f"#{prefix}_URL=",
            f"{prefix}_TIMEOUT_SECONDS=3",
        ]
    comment, *target = target
    return "\n".join(
        [
            "",
            f"# --- {service.name} ".ljust(119, "-"),
            comment,
            f"{prefix}_TOPIC_FILTER={chosen['topic_filter']}",
            *target,
            f"{prefix}_RETRY_SECONDS=60",
            "# Its user at the broker",
            f"{username}={service.name}",
            f"{password}={service.name}-secret",
            "",
        ]
    )


def _append(file: Path, text: str) -> None:
    with file.open("a") as end:
        end.write(text)


def _lock(name: str) -> None:
    with console.status(f"Making requirements/{name}.txt ..."):
        command = [sys.executable, str(ROOT / "requirements" / "compile.py")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = next((line for line in done.stderr.splitlines() if "error" in line), "no reason given")
        raise StackError(
            f"requirements/{name}.txt, which its image needs, could not be made: {said}; "
            "run `python requirements/compile.py` in .venv when the package index can be reached"
        )
