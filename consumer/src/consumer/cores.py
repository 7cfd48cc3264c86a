"""Which cores a process uses."""

import psutil


def keep_to_one_core() -> None:
    """Binds the process to the core that it runs on, with all threads that it starts from here on.

    Its Python threads take turns anyway, and a turn costs less on one core. Only Linux can do it; elsewhere nothing
    changes.
    """
    if psutil.LINUX:
        process = psutil.Process()
        process.cpu_affinity([process.cpu_num()])
