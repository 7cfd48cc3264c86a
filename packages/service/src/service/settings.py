"""Settings from the environment, checked before anything starts."""

import sys
from typing import Annotated, TypeVar, get_args

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings

Port = Annotated[int, Field(ge=1, le=65535, description="a TCP port, 1 to 65535")]

SettingsType = TypeVar("SettingsType", bound=BaseSettings)


def load_settings(settings_class: type[SettingsType]) -> SettingsType:
    """Reads the settings, or stops the program with one line for each variable that is wrong.

    Args:
        settings_class: Its field names are the variables' names in lower case; a field's description says what it
            may be. The value of a ``SecretStr`` is never printed.

    Raises:
        SystemExit: With exit code 2, after the lines were written to standard error.
    """
    try:
        return settings_class()
    except ValidationError as error:
        for problem in error.errors():
            if not problem["loc"]:
                sys.stderr.write(f"{problem['msg'].removeprefix('Value error, ')}\n")
                continue
            field = settings_class.model_fields[str(problem["loc"][0])]
            secret = field.annotation is SecretStr or SecretStr in get_args(field.annotation)
            expected = field.description or problem["msg"]
            name = str(problem["loc"][0]).upper()
            if problem["type"] == "missing":
                sys.stderr.write(f"{name} is not set; it must be {expected}\n")
            else:
                value = "(not shown)" if secret else repr(problem["input"])
                sys.stderr.write(f"{name} is {value}; it must be {expected}\n")
        raise SystemExit(2) from None
