"""Runs the stack under a steady load and prints the memory of each part: ``python -m benchmarks.soak [MINUTES]``.

100 sensors publish a reading a second each. The stack must not be up already.
"""

import os
import subprocess
import sys
import time

import psutil

from stack.local import LocalRuntime
from stack.settings import Settings

LOAD = {"DEVICES": "100", "INTERVAL_SECONDS": "1", "RUNTIME": "local"}


def main() -> None:
    """Prints a line every half minute, and the growth of each part since the first minute."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    subprocess.run([sys.executable, "-m", "stack", "up"], env={**os.environ, **LOAD}, check=True)
    runtime = LocalRuntime(Settings())
    names = [name for name, _, _ in runtime.states()]
    try:
        print("seconds", *names, sep="\t", flush=True)  # noqa: T201 (its output)
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < minutes * 60:
            with runtime.supervisor.connected() as supervisor:
                pids = [supervisor.getProcessInfo(name)["pid"] for name in names]
            held = [psutil.Process(pid).memory_info().rss / 2**20 for pid in pids]
            print(round(elapsed), *(f"{mib:.0f}" for mib in held), sep="\t", flush=True)  # noqa: T201 (its output)
            time.sleep(30)
    finally:
        runtime.down()


if __name__ == "__main__":
    main()
