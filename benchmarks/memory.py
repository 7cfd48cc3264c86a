"""Memory of each part at rest and under load, sizes of the images, and the time of `make up` and `make verify`.

The whole stack with the viewer, everything traced. *At rest*: the default fleet of three sensors. *Under load*: 100
readings a second for half a minute. `make up` is warm: everything is installed and built.
"""

import os
import statistics
import subprocess
import time

from benchmarks.readings import DEVICES, publish
from benchmarks.result import Result, Table
from benchmarks.stacks import resident_mib, running_stack
from harness import Stack
from stack.docker import engine_answers
from stack.images import compose_files
from stack.settings import ROOT

STARTS, REST_SECONDS = 3, 10
LOAD_SECONDS = 30
# The project name of the images, independent of the folder of the checkout.
PROJECT = "mqtt-tracing-bench"


def benchmark() -> Result:
    """Measures the start and `make verify`, then the memory of the parts."""
    seconds: dict[str, list[float]] = {"make up": [], "make verify": []}
    memory: list[list[str | float]] = []
    with running_stack() as stack:
        for _ in range(STARTS):
            stack.runtime.down()
            seconds["make up"].append(timed(stack, "up"))
            seconds["make verify"].append(timed(stack, "verify"))
        time.sleep(REST_SECONDS)
        names = [name for name, _, _ in stack.runtime.states()]
        at_rest = {name: resident_mib(stack.pid(name)) for name in names}
        for _ in range(LOAD_SECONDS):
            started = time.monotonic()
            publish(stack, DEVICES)
            time.sleep(max(0.0, 1 - (time.monotonic() - started)))
        memory += [[name, at_rest[name], resident_mib(stack.pid(name))] for name in names]
    times = [[f"{command} (median of {STARTS})", statistics.median(took)] for command, took in seconds.items()]
    return Result(
        [
            Table("Resident memory, MiB", ["part", "at rest", "after the load"], memory),
            Table("Time, s", ["", "seconds"], times),
            Table("Images, MB", ["image", "size"], image_sizes()),
        ]
    )


def timed(stack: Stack, command: str) -> float:
    """The seconds that a command takes; it must succeed."""
    started = time.monotonic()
    stack.run(command).check_returncode()
    return time.monotonic() - started


def image_sizes() -> list[list[str | float]]:
    """The sizes of the stack's images in MB, if a Docker engine can build them."""
    if not engine_answers():
        return [["no Docker engine answers", "not measured here"]]
    compose = ["docker", "compose", "--project-name", PROJECT]
    pinned = {**os.environ, **compose_files()}
    subprocess.run([*compose, "build", "--quiet"], cwd=ROOT, env=pinned, capture_output=True, timeout=300, check=True)
    listed = subprocess.run([*compose, "config", "--images"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = sorted(set(listed.stdout.split()))
    sizes = [[name, image_size(name)] for name in names]
    built = [name for name in names if name.startswith(PROJECT)]
    subprocess.run(["docker", "image", "rm", *built], capture_output=True, check=True)
    return sizes


def image_size(name: str) -> str | float:
    """The size of one image, in MB."""
    inspect = ["docker", "image", "inspect", "--format", "{{.Size}}", name]
    done = subprocess.run(inspect, capture_output=True, text=True, check=False)
    return float(done.stdout) / 1e6 if done.returncode == 0 else "not on this machine"
