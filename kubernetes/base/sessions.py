"""Ends the sessions of consumers that were scaled away, and processes what they hold: ``sessions.py SESSION``.

It compares the actual state with the wanted one in a loop. So it does not matter why a pod is gone: it was told to
stop, it was killed, or its node is gone. A pod that is updated or restarted counts as wanted, so it finds its session.

SESSION is ``CLIENT_ID=USER``, with {0} for the number of the pod. The program runs in the consumer's image.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import requests

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SCALE = "https://kubernetes.default.svc/apis/apps/v1/namespaces/{}/statefulsets/consumer/scale"
ALIVE = Path("/tmp/alive")  # noqa: S108 (the pod's own)
LOOK_SECONDS = 1.0

log = logging.getLogger("sessions")


def pods_in_use() -> int | None:
    """The number of consumers, from the first one on, that should run or still run; None if Kubernetes does not say."""
    # Read each time, because Kubernetes replaces the token every hour.
    authorization = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"}
    url = SCALE.format((ACCOUNT / "namespace").read_text())
    try:
        answer = requests.get(url, headers=authorization, verify=str(ACCOUNT / "ca.crt"), timeout=10)
        answer.raise_for_status()
        scale = answer.json()
    except requests.RequestException as error:
        log.warning("Kubernetes does not say how many consumers there are: %s", error)
        return None
    ALIVE.touch()
    # Scaled to 0, the consumers pause: the session of the first one keeps new readings.
    return max(1, scale["spec"].get("replicas", 0), scale["status"].get("replicas", 0))


def ended(session: str, gone: range) -> bool:
    """Empties and ends these sessions; returns False if that failed, or if one of them came into use again before."""
    names = [session.format(number) for number in gone]
    leave = subprocess.Popen([sys.executable, "-m", "consumer", "--leave", *names])
    try:
        while leave.poll() is None:
            time.sleep(LOOK_SECONDS)
            if (pods_in_use() or 0) > gone.start:
                # The pod that is back processes what is still in its session.
                leave.terminate()
    finally:
        leave.terminate()
        leave.wait()
    log.info("%s: %s", "ended" if leave.returncode == 0 else "not ended yet", " ".join(names))
    return leave.returncode == 0


def main() -> None:
    """Runs until it is stopped."""
    # Process 1 of a container ignores a signal that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    # CONSUMERS is the most there can be; nobody knows how many there were before this start.
    session, first_ended = sys.argv[1], int(os.environ["CONSUMERS"])
    while True:
        in_use = pods_in_use()
        if in_use is not None:
            first_ended = max(first_ended, in_use)
            if in_use < first_ended and ended(session, range(in_use, first_ended)):
                first_ended = in_use
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
