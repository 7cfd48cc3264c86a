"""What every service of the stack needs beside its work: checked settings, a way to the broker, a signal to stop by."""

from service.broker import KEEPALIVE_SECONDS, BrokerSettings
from service.health import serve_health
from service.settings import Hosts, Listed, Port, load_settings, refusals
from service.stop import StopSignal

__all__ = [
    "KEEPALIVE_SECONDS",
    "BrokerSettings",
    "Hosts",
    "Listed",
    "Port",
    "StopSignal",
    "load_settings",
    "refusals",
    "serve_health",
]
