"""Waits until no other ``make`` sets up the Python environment; descriptor 9 is its folder, open in the shell."""

import fcntl
import sys

try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.stderr.write("Another command sets up the Python environment; waiting for its end ...\n")
    fcntl.flock(9, fcntl.LOCK_EX)
