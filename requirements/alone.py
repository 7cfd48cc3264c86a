"""Locks the checkout, open in the shell as descriptor 9: only one ``make`` at a time sets up the Python environment."""

import fcntl
import sys

try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.stderr.write("Another command is setting up the Python environment; waiting for it ...\n")
    fcntl.flock(9, fcntl.LOCK_EX)
