"""The services made by ``make new-service``; each has a table ``tool.stack`` in its pyproject.toml."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from pydantic import SecretStr, create_model
from pydantic_settings import BaseSettings

from service import load_settings
from stack.settings import ROOT, Password, Settings, Username


@dataclass(frozen=True)
class Service:
    """A service made by ``make new-service``; its folder has its name."""

    name: str
    # Its defaults in the local runtime; they may refer to ports of the stack by ${...}.
    defaults: Mapping[str, str]

    @property
    def module(self) -> str:
        """The Python package of the service."""
        return self.name.replace("-", "_")

    @property
    def user(self) -> tuple[str, str]:
        """The variables with the name and the password of its user at the broker."""
        return f"MQTT_{self.module.upper()}_USERNAME", f"MQTT_{self.module.upper()}_PASSWORD"


@cache
def new_services() -> tuple[Service, ...]:
    """All such services, ordered by name."""
    tables = {
        path.parent.name: tomllib.loads(path.read_text()).get("tool", {}).get("stack")
        for path in sorted(ROOT.glob("*/pyproject.toml"))
    }
    return tuple(Service(name, table["defaults"]) for name, table in tables.items() if table)


class _BrokerUsers(BaseSettings):
    model_config = Settings.model_config


def broker_users(services: Iterable[Service]) -> dict[str, str]:
    """The name and the password of each service's user at the broker, by variable.

    Raises:
        SystemExit: If one is not valid, after a line that says so.
    """
    fields: dict[str, Any] = {}
    for service in services:
        username, password = map(str.lower, service.user)
        fields[username] = (Username, service.name)
        fields[password] = (Password, SecretStr(f"{service.name}-secret"))
    model = create_model("BrokerUsers", __base__=_BrokerUsers, **fields)
    values = load_settings(model).model_dump()
    return {
        name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else cast(str, value)
        for name, value in values.items()
    }
