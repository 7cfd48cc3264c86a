# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0
"""Wraps paho's methods, even if other tools wrap them too."""

# wrapt has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from opentelemetry.instrumentation.paho_mqtt import private
from wrapt import wrap_function_wrapper

Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]


@dataclass(eq=False)
class _Installed:
    """An installed wrapper; when it is off, it passes calls on unchanged."""

    proxy: Any
    on: bool = True


class WrappedMethod:
    """A method that can have our wrapper, at most once.

    Args:
        owner: The class.
        name: The name of the method.
        wrapper: Called as ``wrapper(wrapped, instance, args, kwargs)`` instead of the method.
        lost: What is lost if paho has no such method.
    """

    def __init__(self, owner: type, name: str, wrapper: Wrapper, lost: str = "") -> None:
        self.owner = owner
        self.name = name
        self._wrapper = wrapper
        self._lost = lost
        # There may be several, with another tool's wrapper between them.
        self._installed: list[_Installed] = []

    def put_on(self) -> None:
        """Installs the wrapper, or switches it on again if it is still installed."""
        if not hasattr(self.owner, self.name):
            private.lacks(self.name, self._lost)
            return
        for function in _chain(vars(self.owner).get(self.name)):
            if ours := self._ours(function):
                ours.on = True
                return
        wrapper = self._wrapper
        installed = _Installed(None)

        def call(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            # Without an instance, the wrapped object is a mock, not a method.
            if not installed.on or instance is None:
                return wrapped(*args, **kwargs)
            return wrapper(wrapped, instance, args, kwargs)

        installed.proxy = wrap_function_wrapper(self.owner, self.name, call)
        self._installed.append(installed)

    def take_off(self) -> None:
        """Removes the wrapper. Below another tool's wrapper, which we must not remove, it stays and is switched off."""
        for installed in self._installed:
            installed.on = False
        while ours := self._ours(vars(self.owner).get(self.name)):
            # OpenTelemetry's unwrap() would leave a bound copy of another tool's wrapper.
            setattr(self.owner, self.name, ours.proxy.__wrapped__)
            self._installed.remove(ours)

    def _ours(self, function: Any) -> _Installed | None:
        """Our wrapper, if the function is it, or a bound copy of it that another tool's unwrap() has left."""
        found = (function, getattr(function, "_self_parent", None))
        return next((ours for ours in self._installed if any(ours.proxy is one for one in found)), None)


def _chain(function: Any) -> Iterator[Any]:
    """A function and all that it wraps."""
    for _ in range(100):
        if function is None:
            return
        yield function
        function = getattr(function, "__wrapped__", None)
