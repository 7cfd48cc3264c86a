"""A process of its own, because this one must keep its cores."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, os, threading
from consumer.cores import keep_to_one_core
before = os.sched_getaffinity(0)
keep_to_one_core()
found = [os.sched_getaffinity(0)]
thread = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
thread.start()
thread.join()
print(json.dumps([list(cores) for cores in [before, *found]]))
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux binds a process to cores")
def test_the_process_and_its_later_threads_keep_to_one_of_their_cores() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=30)
    before, process, thread = json.loads(done.stdout)
    assert len(process) == 1
    assert process == thread
    assert set(process) <= set(before)
