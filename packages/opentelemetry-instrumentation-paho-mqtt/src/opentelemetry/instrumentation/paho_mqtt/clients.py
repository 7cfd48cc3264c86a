# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""What is known of a client besides its messages: where it is connected, and what it has subscribed to."""

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
    """A value for each of some clients, for as long as they live.

    By identity, as a client need not be hashable. No operation takes a lock, and each is safe beside other threads and
    the garbage collector.
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
        """The value of a client, which is this one if it has none."""
        entries, key = self._entries, id(client)
        return entries.setdefault(key, (ref(client, lambda _: entries.pop(key, None)), value))[1]

    def pop(self, client: Client) -> None:
        """Forgets a client."""
        self._entries.pop(id(client), None)

    def clear(self) -> None:
        """Forgets all clients."""
        self._entries.clear()

    def clients(self) -> list[Client]:
        """The clients of now."""
        found = [reference() for reference, _ in list(self._entries.values())]
        return [client for client in found if client is not None]

    def values(self) -> list[_T]:
        """The values of now."""
        return [value for _, value in list(self._entries.values())]


class Connection:
    """Where a client is connected, as attributes; equal to itself alone, so that a look-up by it is cheap.

    Args:
        host: Address of the server; empty if nobody knows.
        port: Port of the server; None for a Unix socket.
        client_id: The client id; empty if nobody knows.
        peer: The other end of the socket, as :func:`private.peer` tells it.
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

# More would not be few values, and a stranger could fill the memory with them.
_MOST_SUBSCRIPTIONS = 100


class ClientState:
    """What is known of one client."""

    def __init__(self) -> None:
        self.subscriptions = NO_SUBSCRIPTIONS
        self._subscriptions: dict[str, Subscription] = {}
        # Topics and user properties of the messages that the client must acknowledge itself, by packet id.
        self.unsettled: dict[int, tuple[str, Any]] = {}
        # The context in which connect() was called, as user properties.
        self.connect_fields: list[tuple[str, str]] = []
        self.connected_before = False
        self._connection = UNKNOWN
        self._described: tuple[Any, ...] = ()

    def connection(self, client: Client) -> Connection:
        """Where the client is connected, or will be; the same object until that changes."""
        host, port = private.server(client)
        now = (host, port, private.client_id(client), client.socket())
        if now != self._described:
            self._connection = Connection(*now[:3], private.peer(now[3]))
            self._described = now
        return self._connection

    def subscribed(self, names: Iterable[str]) -> None:
        """Notes what the client subscribes to, up to a hundred names."""
        for name in names:
            if name not in self._subscriptions and len(self._subscriptions) < _MOST_SUBSCRIPTIONS:
                self._subscriptions[name] = Subscription.parse(name)
        self._renew_subscriptions()

    def unsubscribed(self, names: Iterable[str]) -> None:
        """Notes what the client is no longer subscribed to."""
        for name in names:
            self._subscriptions.pop(name, None)
        self._renew_subscriptions()

    def _renew_subscriptions(self) -> None:
        # Without a lock: a thread may hold it when the process forks, or when the garbage collector publishes.
        while self.subscriptions.by_name != self._subscriptions:
            self.subscriptions = Subscriptions(self._subscriptions.copy())


_states: ClientTable[ClientState] = ClientTable()


def state_of(client: Client) -> ClientState:
    """What is known of a client."""
    state = _states.get(client, None)
    return _states.setdefault(client, ClientState()) if state is None else state


def known_clients() -> list[Client]:
    """The clients of which something is known."""
    return _states.clients()
