"""One way to stop for every cause: a signal, or a thread that died."""

import logging
import signal
import threading

log = logging.getLogger(__name__)


class StopSignal(threading.Event):
    """Set by SIGTERM, by SIGINT, and when any thread ends with an exception.

    The last one matters with paho: an exception in a callback ends its network thread, but the client still reports
    that it is connected. A service that stops is restarted; one that hangs is not.
    """

    exit_code = 0

    def __init__(self) -> None:
        super().__init__()
        signal.signal(signal.SIGTERM, lambda *_: self.set())
        signal.signal(signal.SIGINT, lambda *_: self.set())
        threading.excepthook = self._thread_died

    def _thread_died(self, failure: threading.ExceptHookArgs) -> None:
        if failure.exc_value is not None:
            log.critical("a thread died, stopping", exc_info=failure.exc_value)
        self.exit_code = 1
        self.set()
