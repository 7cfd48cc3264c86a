"""What every service of the stack needs beside its work: checked settings, a stop signal, a heartbeat."""

from service.settings import Port, load_settings
from service.stop import StopSignal

__all__ = ["Port", "StopSignal", "load_settings"]
