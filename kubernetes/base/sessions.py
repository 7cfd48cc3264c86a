"""Ends the sessions of consumers that were scaled away, and processes what they hold: ``sessions.py SESSION``.

It compares what is with what should be, again and again. So it does not matter how a pod went: told to stop, killed,
or with its node. A pod that is updated, or started again, is one that should be there: it finds its session.

SESSION is a client id, and after ``=`` its user, with {0} for the number of the pod. It runs in the consumer's image.
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
    """How many of the consumers, from the first one on, should run or still do; None if Kubernetes does not say."""
    # The token is a new one each hour.
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
    # Scaled to none, they pause: the first one's session keeps what comes.
    return max(1, scale["spec"].get("replicas", 0), scale["status"].get("replicas", 0))


def ended(session: str, gone: range) -> bool:
    """Whether these sessions were emptied and ended; not if one of them is in use again before."""
    names = [session.format(number) for number in gone]
    leave = subprocess.Popen([sys.executable, "-m", "consumer", "--leave", *names])
    try:
        while leave.poll() is None:
            time.sleep(LOOK_SECONDS)
            if (pods_in_use() or 0) > gone.start:
                # What it has not emptied goes on with its pod.
                leave.terminate()
    finally:
        leave.terminate()
        leave.wait()
    log.info("%s: %s", "ended" if leave.returncode == 0 else "not ended yet", " ".join(names))
    return leave.returncode == 0


def main() -> None:
    """Goes on until it is stopped."""
    # The first process of a container is not ended by a signal that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    # Whatever was there before: nobody says how many there were.
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
