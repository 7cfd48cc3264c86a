# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""What is known about a client besides its messages: its connection and its subscriptions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar
from weakref import ref

from opentelemetry.instrumentation.paho_mqtt import private
from opentelemetry.instrumentation.paho_mqtt.text import encodable
from opentelemetry.instrumentation.paho_mqtt.topics import Subscription, Subscriptions
from opentelemetry.semconv._incubating.attributes.messaging_attributes import MESSAGING_CLIENT_ID  # pyright: ignore[reportMissingTypeStubs] (it has types; pyright overlooks py.typed)
from opentelemetry.semconv.attributes.network_attributes import NETWORK_PEER_ADDRESS, NETWORK_PEER_PORT
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.util.types import AttributeValue
from paho.mqtt.client import Client

_T = TypeVar("_T")
_D = TypeVar("_D")


class ClientTable(Generic[_T]):
    """Holds a value for some clients, as long as they live.

    Clients are compared by identity, because they need not be hashable. No operation takes a lock, and each is safe
    with other threads and with the garbage collector.
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[ref[Client], _T]] = {}

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __contains__(self, client: Client) -> bool:
        return id(client) in self._entries

    def __setitem__(self, client: Client, value: _T) -> None:
        entries, key = self._entries, id(client)
        entries[key] = ref(client, lambda _: entries.pop(key, None)), value

    def get(self, client: Client, default: _D) -> _T | _D:
        """The value of a client, or the default."""
        entry = self._entries.get(id(client))
        return default if entry is None else entry[1]

    def setdefault(self, client: Client, value: _T) -> _T:
        """The value of a client; sets it to ``value`` if the client has none."""
        entries, key = self._entries, id(client)
        return entries.setdefault(key, (ref(client, lambda _: entries.pop(key, None)), value))[1]

    def pop(self, client: Client) -> None:
        """Forgets a client."""
        self._entries.pop(id(client), None)

    def clear(self) -> None:
        """Forgets all clients."""
        self._entries.clear()

    def clients(self) -> list[Client]:
        """The current clients."""
        found = [reference() for reference, _ in list(self._entries.values())]
        return [client for client in found if client is not None]

    def values(self) -> list[_T]:
        """The current values."""
        return [value for _, value in list(self._entries.values())]


class Connection:
    """A client's connection, as attributes. It is compared by identity, so that a look-up by it is cheap.

    Args:
        host: Address of the server; empty if unknown.
        port: Port of the server; None for a Unix socket.
        client_id: The client id; empty if unknown.
        peer: The other end of the socket, from :func:`private.peer`.
    """

    def __init__(
        self,
        host: str = "",
        port: int | None = None,
        client_id: bytes = b"",
        peer: tuple[str, int | None] | None = None,
    ) -> None:
        self.server: dict[str, AttributeValue] = {}
        if host:
            self.server[SERVER_ADDRESS] = encodable(host)
            if port is not None:
                self.server[SERVER_PORT] = port
        self.attributes = self.server.copy()
        if peer is not None:
            address, peer_port = peer
            self.attributes[NETWORK_PEER_ADDRESS] = encodable(address)
            if peer_port is not None:
                self.attributes[NETWORK_PEER_PORT] = peer_port
        if client_id:
            self.attributes[MESSAGING_CLIENT_ID] = client_id.decode("utf-8", "replace")


UNKNOWN = Connection()
NO_SUBSCRIPTIONS = Subscriptions({})

# More would be too many values for a metric attribute, and could fill the memory.
_MOST_SUBSCRIPTIONS = 100


class ClientState:
    """What is known about one client."""

    def __init__(self) -> None:
        self.subscriptions = NO_SUBSCRIPTIONS
        self._subscriptions: dict[str, Subscription] = {}
        # By packet id: topic and user properties of the messages that the client must acknowledge itself.
        self.unsettled: dict[int, tuple[str, Any]] = {}
        # The context in which connect() was called, as user properties.
        self.connect_fields: list[tuple[str, str]] = []
        self.connected_before = False
        self._connection = UNKNOWN
        self._described: tuple[Any, ...] = ()

    def connection(self, client: Client) -> Connection:
        """The client's current or next connection; the same object until it changes."""
        host, port = private.server(client)
        now = (host, port, private.client_id(client), client.socket())
        if now != self._described:
            self._connection = Connection(*now[:3], private.peer(now[3]))
            self._described = now
        return self._connection

    def subscribed(self, names: Iterable[str]) -> None:
        """Notes the client's new subscriptions, up to a hundred in total."""
        for name in names:
            if name not in self._subscriptions and len(self._subscriptions) < _MOST_SUBSCRIPTIONS:
                self._subscriptions[name] = Subscription.parse(name)
        self._renew_subscriptions()

    def unsubscribed(self, names: Iterable[str]) -> None:
        """Forgets subscriptions that the client has ended."""
        for name in names:
            self._subscriptions.pop(name, None)
        self._renew_subscriptions()

    def _renew_subscriptions(self) -> None:
        # Without a lock, which a thread could hold when the process forks, or when the garbage collector publishes.
        while self.subscriptions.by_name != self._subscriptions:
            self.subscriptions = Subscriptions(self._subscriptions.copy())


_states: ClientTable[ClientState] = ClientTable()


def state_of(client: Client) -> ClientState:
    """What is known about a client."""
    state = _states.get(client, None)
    return _states.setdefault(client, ClientState()) if state is None else state


def known_clients() -> list[Client]:
    """The clients about which something is known."""
    return _states.clients()
