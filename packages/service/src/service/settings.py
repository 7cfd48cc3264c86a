"""Settings from the environment, checked before anything starts."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode

Port = Annotated[int, Field(ge=1, le=65535, description="a TCP port, 1 to 65535")]


def _split(names: object) -> object:
    return [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else names


Item = TypeVar("Item")

Listed = Annotated[tuple[Item, ...], NoDecode, BeforeValidator(_split)]
"""Values with commas between."""

Hosts = Annotated[
    Listed[Annotated[str, Field(pattern=r"^(\*|(\*\.)?[A-Za-z0-9_.-]+)$")]],
    Field(min_length=1, description="host names without ports, with commas between; *.example.com for all below it"),
]
"""The names that others may call a server by, in the Host header of a request."""

SettingsType = TypeVar("SettingsType", bound=BaseSettings)


def load_settings(settings_class: type[SettingsType]) -> SettingsType:
    """Reads the settings, or stops the program with one line for each variable that is wrong.

    Args:
        settings_class: Its field names are the variables' names in lower case. A field's description says which values
            are valid. The value of a ``SecretStr`` is never printed.

    Raises:
        SystemExit: With exit code 2, after the lines are on standard error.
    """
    try:
        return settings_class()
    except ValidationError as error:
        sys.stderr.writelines(f"{line}\n" for line in _explained(settings_class, error).values())
        raise SystemExit(2) from None


def refusals(settings_class: type[BaseSettings], given: Mapping[str, str]) -> dict[str, str]:
    """Checks the settings that another process will get.

    Args:
        settings_class: As for ``load_settings``.
        given: The other process's variables; they override those of this process's environment.

    Returns:
        A line for each wrong variable, by the variable's name; if a line is about several variables, by the line.
    """
    lower = {name.lower(): value for name, value in given.items() if value}
    values: dict[str, Any] = {name: lower[name] for name in settings_class.model_fields.keys() & lower.keys()}
    try:
        settings_class(**values)
    except ValidationError as error:
        return _explained(settings_class, error)
    return {}


def _explained(settings_class: type[BaseSettings], error: ValidationError) -> dict[str, str]:
    return dict(_line(settings_class, problem) for problem in error.errors())


def _line(settings_class: type[BaseSettings], problem: ErrorDetails) -> tuple[str, str]:
    if not problem["loc"]:
        line = problem["msg"].removeprefix("Value error, ")
        return line, line
    field = settings_class.model_fields[str(problem["loc"][0])]
    name = str(problem["loc"][0]).upper()
    expected = field.description or problem["msg"]
    if problem["type"] == "missing":
        return name, f"{name} is not set; it must be {expected}"
    secret = field.annotation is SecretStr or SecretStr in get_args(field.annotation)
    return name, f"{name} is {'(not shown)' if secret else repr(problem['input'])}; it must be {expected}"
