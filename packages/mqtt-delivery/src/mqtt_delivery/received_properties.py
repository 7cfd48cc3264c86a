"""Reads the properties of received packets, in place of paho's own reader.

paho treats U+FEFF as malformed, although MQTT allows it (MQTT 5.0, 1.5.4-3). One such message stops a subscriber for
good, because the broker sends it again after each reconnect. Also, paho's time grows with the square of the number of
properties, in the network thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from paho.mqtt.exception import MalformedPacket, MQTTException
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers

_KNOWN = Properties(PacketTypes.PUBLISH)
# By identifier (MQTT 5.0, 2.2.2.2): paho's name for the property, its type, and the packets that may have it.
_PROPERTIES: dict[int, tuple[str, str, list[int]]] = {
    identifier: (
        name.replace(" ", ""),
        _KNOWN.types[_KNOWN.properties[identifier][0]],
        _KNOWN.properties[identifier][1],
    )
    for name, identifier in _KNOWN.names.items()
}
_decode = cast("Callable[[bytes], tuple[int, int]]", VariableByteIntegers.decode)  # pyright: ignore[reportUnknownMemberType] (paho has no types here)
_INTEGERS = {"Byte": 1, "Two Byte Integer": 2, "Four Byte Integer": 4}
_REPEATABLE = ("UserProperty", "SubscriptionIdentifier")


def use_for_paho() -> None:
    """Makes all paho clients of this process read properties with ``unpack``."""
    Properties.unpack = unpack


def unpack(self: Properties, buffer: bytes) -> tuple[Properties, int]:
    """Fills properties from a packet (MQTT 5.0, 2.2.2); returns them and their length in bytes.

    Raises:
        MalformedPacket: The packet breaks the rules of MQTT 5.
    """
    self.clear()
    try:
        return self, _Reader(buffer).read_into(self)
    except MalformedPacket:
        raise
    except (KeyError, UnicodeDecodeError, MQTTException) as error:
        raise MalformedPacket(f"properties that cannot be read: {error!r}") from None


class _Reader:
    def __init__(self, buffer: bytes) -> None:
        self._buffer = buffer
        self._position: int = 0
        self._end: int = len(buffer)

    def read_into(self, properties: Properties) -> int:
        length = self._variable_byte_integer()
        self._end = self._position + length
        if self._end > len(self._buffer):
            raise MalformedPacket("properties that are longer than their packet")
        found: dict[str, Any] = {}
        while self._position < self._end:
            name, kind, packets = _PROPERTIES[self._variable_byte_integer()]
            if properties.packetType not in packets:  # pyright: ignore[reportUnknownMemberType] (as above)
                raise MalformedPacket(f"{name} in a packet that has no such property")
            value = self._value(kind)
            if name in _REPEATABLE:
                found.setdefault(name, []).append(value)
            elif name in found:
                raise MalformedPacket(f"{name} twice")
            else:
                found[name] = value
        for name, value in found.items():
            setattr(properties, name, value)
        return self._end

    def _value(self, kind: str) -> Any:
        if kind in _INTEGERS:
            return int.from_bytes(self._bytes(_INTEGERS[kind]), "big")
        if kind == "Variable Byte Integer":
            return self._variable_byte_integer()
        if kind == "Binary Data":
            return self._bytes(int.from_bytes(self._bytes(2), "big"))
        if kind == "UTF-8 String Pair":
            return self._string(), self._string()
        return self._string()

    def _string(self) -> str:
        # Python's decoder already refuses surrogates (MQTT 5.0, 1.5.4-1).
        text = self._bytes(int.from_bytes(self._bytes(2), "big")).decode()
        if "\0" in text:
            raise MalformedPacket("U+0000 in a string")
        return text

    def _bytes(self, count: int) -> bytes:
        start, self._position = self._position, self._position + count
        if self._position > self._end:
            raise MalformedPacket("a property that is longer than all of them")
        return bytes(self._buffer[start : self._position])

    def _variable_byte_integer(self) -> int:
        value, length = _decode(self._buffer[self._position : min(self._position + 5, self._end)])
        self._position += length
        return value
