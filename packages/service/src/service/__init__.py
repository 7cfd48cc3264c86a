"""What every service of the stack needs besides its work: checked settings, an MQTT client, a stop signal."""

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
