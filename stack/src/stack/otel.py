"""The variables of the OpenTelemetry SDK that the stack passes on, and their valid values.

The SDK ignores some wrong values, and ends the program for others. These are the values that the installed SDK accepts
(OpenTelemetry specification, *Environment Variable Specification*).
"""

from importlib.metadata import entry_points
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from service import Listed
from stack.settings import listed, one_of

SAMPLERS = ("always_on", "always_off", "traceidratio")


def _known(kind: str, *more: str) -> tuple[str, ...]:
    """The names by which the SDK finds a component."""
    return tuple(sorted({*more, *(entry.name for entry in entry_points(group=f"opentelemetry_{kind}"))}))


def _lower(text: object) -> str:
    return str(text).strip().lower()


_TRACES, _METRICS, _LOGS = (_known(f"{signal}_exporter", "none") for signal in ("traces", "metrics", "logs"))
_PROPAGATORS = _known("propagator", "none")
_SAMPLERS = _known("traces_sampler", *SAMPLERS, *(f"parentbased_{name}" for name in SAMPLERS))

Milliseconds = Annotated[int | None, Field(ge=1, description="milliseconds, 1 or more")]


class OtelSettings(BaseSettings):
    """Each field is the environment variable of the same name in capitals; the SDK has its own defaults."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore")

    otel_traces_exporter: Annotated[Listed[str], one_of(*_TRACES)] = Field(default=(), description=listed(_TRACES))
    otel_metrics_exporter: Annotated[Listed[str], one_of(*_METRICS)] = Field(default=(), description=listed(_METRICS))
    otel_logs_exporter: Annotated[Listed[str], one_of(*_LOGS)] = Field(default=(), description=listed(_LOGS))
    otel_propagators: Annotated[Listed[str], one_of(*_PROPAGATORS)] = Field(
        default=(), description=listed(_PROPAGATORS)
    )
    otel_traces_sampler: Annotated[str, BeforeValidator(_lower), one_of(*_SAMPLERS)] = Field(
        default="parentbased_always_on", description=f"one of {', '.join(_SAMPLERS)}"
    )
    otel_traces_sampler_arg: float | None = Field(default=None, ge=0, le=1, description="a ratio, 0 to 1")
    otel_bsp_schedule_delay: Milliseconds = None
    otel_blrp_schedule_delay: Milliseconds = None
    otel_metric_export_interval: Milliseconds = None
    otel_exporter_otlp_timeout: float | None = Field(default=None, gt=0, description="seconds, more than 0")
    otel_resource_attributes: str = Field(
        default="", pattern=r"^([^=,]+=[^,]*)?(,[^=,]+=[^,]*)*,?$", description="name=value, with commas between"
    )
    otel_sdk_disabled: Annotated[Literal["true", "false"], BeforeValidator(_lower)] = Field(
        default="false", description="true or false"
    )
