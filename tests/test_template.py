"""Services from ``make new-service`` and ``copier copy`` work, and are traced, from the first run."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import copier
import pytest
from copier.errors import DirtyLocalWarning

from harness import Stack, eventually
from stack.part import local_url
from stack.settings import ROOT
from stack.trace import children, roots

# These tests install and test whole projects.
pytestmark = pytest.mark.stack

BIN = Path(sys.executable).parent
RUFF, PYRIGHT, PYTEST = (str(BIN / name) for name in ("ruff", "pyright", "pytest"))
TRACED = "test_what_it_does_with_a_reading_is_part_of_the_readings_trace"


def clean(**more: str) -> dict[str, str]:
    """This environment without coverage, which does not measure generated projects."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV_")}
    return {**environment, "PATH": f"{BIN}{os.pathsep}{environment['PATH']}", **more}


def installed(folder: Path, *projects: Path) -> Path:
    """Makes packages importable that are not in the virtual environment, without a network."""
    command = [f"{BIN}/uv", "pip", "install", "--quiet", "--offline", "--python", sys.executable, "--no-deps"]
    options = ["--no-build-isolation", "--target", str(folder)]
    subprocess.run([*command, *options, *map(str, projects)], env=clean(), check=True, timeout=60)
    return folder


def sh_blocks(document: Path) -> list[str]:
    """The commands in a document."""
    return re.findall(r"^```sh\n(.*?)^```$", document.read_text(), re.M | re.S)


@dataclass
class Workspace:
    """A copy of this workspace; its virtual environment uses the packages installed in the original's."""

    folder: Path

    def make_environment(self) -> None:
        """Makes the virtual environment; it finds our packages in the copy, all others in the original."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=self.folder, check=True)
        (installed,) = self.folder.glob(".venv/lib/python*/site-packages")
        sources = [*self.folder.glob("*/src"), *self.folder.glob("*/*/src")]
        paths = [*sources, self.folder / "installed", sysconfig.get_path("purelib")]
        (installed / "workspace.pth").write_text("".join(f"{path}\n" for path in paths))

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the copy."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=clean(**variables),
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    def new_service(self, *answers: str) -> subprocess.CompletedProcess[str]:
        """Runs what a user types; the virtual environment counts as ready, so that it is not installed again."""
        return self.run("make", "--old-file", ".venv/ready", "new-service", *answers)

    def state(self) -> dict[str, bytes]:
        """The content of each file."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        return {str(path): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A copy with a service of each kind."""
    folder = tmp_path_factory.mktemp("workspace")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.rstrip("\0").split("\0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    # Tests list the project's files by git.
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    workspace = Workspace(folder)
    workspace.make_environment()
    for answers in (("NAME=alerter", "OUTPUT=mqtt"), ("NAME=web-alerter",)):
        done = workspace.new_service(*answers)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Next: make up" in done.stdout
    installed(folder / "installed", folder / "alerter", folder / "web-alerter")
    workspace.make_environment()
    yield workspace
    shutil.rmtree(folder)


@pytest.mark.timeout(600)
def test_new_services_are_traced_and_all_tests_of_the_workspace_cover_them(workspace: Workspace) -> None:
    of_workspace = ["new_services", "service_settings", "docker"]
    files = ["alerter/tests", "web-alerter/tests", *(f"tests/test_{name}.py" for name in of_workspace)]
    # In Kubernetes the broker has users for the new services.
    secrets = "test_a_secret_reaches_only_the_pods_that_need_it"
    files += [f"tests/test_kubernetes.py::{secrets}[base]"]
    # Images are built elsewhere; no Docker engine answers here.
    done = workspace.run(
        ".venv/bin/python", "-m", "pytest", "-v", "-p", "no:cacheprovider", *files, DOCKER_HOST="unix:///nowhere"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = [line.split()[0] for line in done.stdout.splitlines() if " PASSED " in line]
    assert len([test for test in passed if test.startswith("alerter/tests/test_alerter.py::")]) == 7
    assert len([test for test in passed if test.startswith("web-alerter/tests/test_web_alerter.py::")]) == 10
    for name in ("alerter", "web-alerter"):
        assert f"tests/test_new_services.py::{TRACED}[{name}]" in passed
        assert f"tests/test_docker.py::test_a_container_can_do_no_more_than_it_needs[{name}]" in passed
    assert f"tests/test_kubernetes.py::{secrets}[base]" in passed
    assert any("web_alerter.settings-WEB_ALERTER_URL=nonsense" in test for test in passed)


def test_what_is_made_is_lint_clean(workspace: Workspace) -> None:
    # In the workspace itself, the virtual environment finds their sources.
    paths = ["tests", "alerter/src", "web-alerter/src"]
    types = {"include": ["alerter", "web-alerter"], "extraPaths": paths, "venvPath": ".", "venv": ".venv"}
    (workspace.folder / "pyrightconfig.json").write_text(json.dumps(types))
    for command in ([RUFF, "format", "--check", "."], [RUFF, "check", "."], [PYRIGHT, "--stats"]):
        done = workspace.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "Found 10 source files" in done.stdout
    locks = workspace.folder / "requirements"
    assert "paho-mqtt==" in (locks / "alerter.txt").read_text()
    assert "opentelemetry-instrumentation-requests==" in (locks / "web-alerter.txt").read_text()
    assert "opentelemetry-instrumentation-requests==" not in (locks / "alerter.txt").read_text()


@pytest.mark.timeout(300)
def test_a_stack_that_runs_takes_a_new_service_in(workspace: Workspace, new_stack: Callable[..., Stack]) -> None:
    environment = new_stack().environment
    stack = (".venv/bin/python", "-m", "stack")
    done = workspace.run(*stack, "up", **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        assert workspace.new_service("NAME=latecomer").returncode == 0
        installed(workspace.folder / "installed", workspace.folder / "latecomer")
        done = workspace.run(*stack, "up", **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "latecomer is new.\n" in done.stdout
        done = workspace.run(*stack, "verify", **environment)
        assert "CONSUMER latecomer" in done.stdout, done.stdout + done.stderr
    finally:
        assert workspace.run(*stack, "down", **environment).returncode == 0


TAKEN = "which is taken"
WRONG: list[tuple[str, dict[str, str], str]] = [
    ("", {}, "NAME is not set; it is the name of the service, as in make new-service NAME=alerter"),
    ("consumer-3", {}, f"NAME is 'consumer-3', {TAKEN}: a consumer has this name; choose another"),
    ("json", {}, f"NAME is 'json', {TAKEN}: Python has a module of this name; choose another"),
    ("faults", {}, f"NAME is 'faults', {TAKEN}: a file of the tests has this name; choose another"),
    (
        "issuer",
        {},
        f"NAME is 'issuer', {TAKEN}: the stack has variables that begin with ISSUER_ or MQTT_ISSUER_; choose another",
    ),
    (
        "Alerter",
        {},
        "NAME is 'Alerter'; it must be 2 to 24 lower-case letters and digits, with single hyphens between, "
        "and begin with a letter",
    ),
    ("class", {}, "NAME is 'class'; Python has another use for this name; choose another"),
    ("relay", {"output": "smtp"}, "OUTPUT is 'smtp'; 'smtp' is not in ['http', 'mqtt']"),
    ("relay", {"url": "echo"}, "URL is 'echo'; it must be a URL, such as http://127.0.0.1:8080/echo"),
    (
        "relay",
        {"topic_filter": "a#"},
        "TOPIC_FILTER is 'a#'; it must be an MQTT topic filter of letters, digits, _ . and -, such as "
        "sensors/+/reading",
    ),
    ("relay", {"output_topic": "a"}, "OUTPUT_TOPIC is 'a', but OUTPUT is not mqtt; give one or the other"),
    (
        "relay",
        {"output": "mqtt", "topic_filter": "#"},
        "TOPIC_FILTER is '#', which takes in what it publishes on relay/reading, without end; choose another",
    ),
    (
        "relay",
        {"topic_filter": "+/#"},
        "TOPIC_FILTER is '+/#', which takes in what it publishes on dead-letter/+/#, without end; choose another",
    ),
]
# All in one process of the copy, because each process takes seconds to start.
TRY_ALL = """
import json, sys
from stack.errors import StackError
from new_service import new_service

for name, answers, _ in json.loads(sys.argv[1]):
    try:
        new_service(name, answers)
        print("made")
    except StackError as error:
        print(error)
"""


def test_a_wrong_answer_is_one_clear_line_and_changes_nothing(workspace: Workspace) -> None:
    before = workspace.state()
    done = workspace.run(".venv/bin/python", "-c", TRY_ALL, json.dumps(WRONG))
    assert done.stdout.splitlines() == [line for _, _, line in WRONG], done.stderr
    done = workspace.new_service("NAME=alerter")
    assert done.returncode != 0
    taken = "NAME is 'alerter', which is taken: there is alerter/ already; choose another"
    assert [line for line in done.stderr.splitlines() if not line.startswith("make")] == [f"error: {taken}"]
    assert workspace.state() == before


def copied(folder: Path, **answers: str) -> Path:
    """A separate project, made by ``copier copy``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DirtyLocalWarning)
        copier.run_copy(str(ROOT), folder / answers["name"], answers, vcs_ref="HEAD", defaults=True, quiet=True)
    return folder / answers["name"]


@pytest.fixture(scope="module", params=["http", "mqtt"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of each kind, installed in addition to this environment's packages."""
    folder = copied(tmp_path_factory.mktemp("projects"), name="relay", output=request.param)
    installed(folder / "installed", folder)
    return folder


def test_a_project_of_its_own_is_whole(project: Path) -> None:
    environment = clean(PYTHONPATH=str(project / "installed"))
    for command in ([RUFF, "format", "--check", "src", "tests"], [RUFF, "check", "src", "tests"], [PYTEST, "-q"]):
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, timeout=150, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
    (project / ".venv").symlink_to(BIN.parent)
    done = subprocess.run([PYRIGHT], cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    for file in [*project.glob("src/**/*.py"), *project.glob("*.toml"), *project.glob("Dockerfile")]:
        text = file.read_text()
        assert "mqtt-tracing" not in text, file
        assert "from service" not in text, file
        assert "from telemetry" not in text, file


def test_a_project_of_its_own_is_part_of_a_readings_trace(project: Path, stack: Stack, tmp_path: Path) -> None:
    healthy = tmp_path / "healthy"
    settings = stack.settings
    environment = clean(
        PYTHONPATH=str(project / "installed"),
        MQTT_PORT=str(settings.mqtt_port),
        # The broker has no user for another project; the operator may read, and write to the dead letters.
        MQTT_RELAY_USERNAME=settings.mqtt_operator_username,
        MQTT_RELAY_PASSWORD=settings.mqtt_operator_password.get_secret_value(),
        RELAY_URL=local_url(settings.echo_port, "/echo"),
        RELAY_OUTPUT_TOPIC="dead-letter/sensors/relay/reading",
        HEALTH_FILE=str(healthy),
        OTEL_EXPORTER_OTLP_ENDPOINT=local_url(settings.otlp_grpc_port),
        OTEL_BSP_SCHEDULE_DELAY="100",
    )
    with subprocess.Popen([sys.executable, "-m", "relay"], env=environment) as process:
        try:
            eventually(healthy.exists)
            published = stack.runtime.run_once(20)
            trace_id = json.loads(published.stdout)["trace_id"]

            def sent() -> list[str]:
                spans = stack.viewer.trace(trace_id)
                below = [span for span in children(spans, roots(spans)[0]) if span.service == "relay"] if spans else []
                return [span.kind for process_span in below for span in children(spans, process_span)]

            assert eventually(sent) in (["Client"], ["Producer"])
        finally:
            process.terminate()
    assert process.returncode == 0


def test_a_handler_is_short_and_all_that_is_to_change(project: Path) -> None:
    assert len((project / "src" / "relay" / "handler.py").read_text().splitlines()) <= 25
    assert len((project / "src" / "relay" / "__main__.py").read_text().splitlines()) <= 50


def environment_of_others() -> dict[str, str]:
    """Environment variables that do not lead to this environment's packages."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    paths = [path for path in kept["PATH"].split(os.pathsep) if Path(path) != BIN]
    return {name: value for name, value in kept.items() if not name.startswith("COV_")} | {
        "PATH": os.pathsep.join(paths)
    }


def in_bash(script: str, where: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs commands one after the other, until one fails."""
    command = ["bash", "-euxo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=600, check=False)


def made_by_itself(folder: Path) -> Path:
    """A separate project with its wheels, made by its README; its name has the maximum length."""
    project = copied(folder, name="a-service-with-long-name")
    (folder / "mqtt-tracing").symlink_to(ROOT)
    wheels, *_ = sh_blocks(project / "README.md")[0].splitlines()
    done = in_bash(wheels, project, environment_of_others())
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.mark.timeout(900)
def test_a_project_of_its_own_does_what_its_readme_and_its_ci_say(tmp_path: Path) -> None:
    project, environment = made_by_itself(tmp_path), environment_of_others()
    _, *commands = sh_blocks(project / "README.md")[0].splitlines()
    first = commands[0].partition("#")[0].strip()
    (of_ci,) = re.findall(r"run: (make .*)", (project / ".github" / "workflows" / "ci.yml").read_text())
    assert of_ci == f"{first} image"
    done = in_bash(first, project, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    same = "import ensurepip, pip; assert pip.__version__ == ensurepip.version()"
    installed = 'import importlib.metadata as of; print(of.distribution("mqtt-delivery").read_text("direct_url.json"))'
    done = in_bash(f"{project}/.venv/bin/python -c '{same}; {installed}'", tmp_path, environment)
    assert json.loads(done.stdout)["url"].startswith(f"file://{project}/wheels/mqtt_delivery-"), done.stderr
    # If one wheel is missing, the installation fails, and nothing is requested from an index.
    (wheel,) = project.glob("wheels/opentelemetry_*.whl")
    wheel.unlink()
    forget = ".venv/bin/pip --quiet uninstall --yes opentelemetry-instrumentation-paho-mqtt && rm .venv/ready"
    assert in_bash(forget, project, environment).returncode == 0
    done = in_bash("make .venv/ready", project, environment)
    assert done.returncode != 0
    assert "requires opentelemetry-instrumentation-paho-mqtt, which is not installed" in done.stdout + done.stderr
    next(project.glob("wheels/mqtt_*.whl")).unlink()
    done = in_bash("make --no-print-directory .venv/ready 2>&1 | head -1", project, environment)
    assert done.stdout == "wheels/ is empty: make wheels FROM=<checkout of the reference stack>\n"


OURS = ("mqtt_delivery", "opentelemetry_instrumentation_paho_mqtt")


def of_a_stranger(folder: Path, name: str, version: str) -> None:
    """A wheel that somebody else has published on an index under one of our names."""
    info = f"{name}-{version}.dist-info"
    with ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.mark.timeout(600)
def test_pip_takes_no_package_of_our_names_from_an_index(tmp_path: Path) -> None:
    project, environment = made_by_itself(tmp_path), environment_of_others()
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    for name in OURS:
        for version in ("0.1.0", "99.0"):
            of_a_stranger(strangers, name, version)
    # With the pip that comes with Python.
    install = f"../own/bin/pip --quiet install --dry-run --find-links {strangers}"
    done = in_bash(f"python3 -m venv ../own; {install} .", project, environment)
    assert done.returncode != 0
    assert "No matching distribution found for mqtt-delivery==0.1.0+unpublished" in done.stderr
    done = in_bash(f"{install} --find-links wheels --report report.json .", project, environment)
    assert done.returncode == 0, done.stderr
    found = json.loads((project / "report.json").read_text())["install"]
    taken = {each["metadata"]["name"].replace("-", "_"): each["download_info"]["url"] for each in found}
    assert all(taken[name].startswith(f"file://{project}/wheels/{name}-") for name in OURS)


@pytest.mark.timeout(900)
def test_a_project_of_its_own_is_installed_as_its_image_does(tmp_path: Path) -> None:
    project, image = made_by_itself(tmp_path), tmp_path / "image"
    image.mkdir()
    done = in_bash("python3 -m venv stage", image, environment_of_others())
    assert done.returncode == 0, done.stderr
    environment = environment_of_others()
    environment["PATH"] = f"{image}/stage/bin:{environment['PATH']}"
    stage, *_ = re.split(r"\nFROM (?=\S+\n)", (project / "Dockerfile").read_text())
    # The image has only what the Dockerfile copies.
    for instruction, words in re.findall(r"^(COPY|RUN) ((?:.*\\\n)*.*)$", stage, re.M):
        if instruction == "COPY":
            *sources, target = words.split()
            done = in_bash(f"cp -r {' '.join(sources)} {image / target}", project, environment)
        else:
            command = re.sub(r"--mount=\S+", "", words).replace("/venv", f"{image}/venv")
            done = in_bash(command, image, environment)
        assert done.returncode == 0, done.stdout + done.stderr
    done = in_bash(f"{image}/venv/bin/python -c 'import a_service_with_long_name.__main__'", tmp_path, environment)
    assert done.returncode == 0, done.stderr
