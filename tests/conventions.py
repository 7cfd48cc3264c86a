"""Reads the registry in ``packages/telemetry/schema/`` by the rules of Weaver's semantic convention schema."""

import pkgutil
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import opentelemetry.semconv._incubating.attributes
import opentelemetry.semconv.attributes
import yaml
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, model_validator

# The name of what is emitted, one of its properties, and the value of that property.
Fact = tuple[str, str, str]

Stability = Literal["stable", "development", "alpha", "beta", "release_candidate"]
Text = Annotated[str, Field(min_length=1)]
PYTHON_TYPES = {"string": str, "int": int, "double": float, "boolean": bool}
# All other attributes of the conventions that we use are strings.
UPSTREAM_TYPES = {
    "client.port": "int",
    "exception.escaped": "boolean",
    "http.response.status_code": "int",
    "messaging.batch.message_count": "int",
    "messaging.message.body.size": "int",
    "network.peer.port": "int",
    "server.port": "int",
}


class Form(BaseModel):
    """Refuses fields that the published schema does not have."""

    model_config = ConfigDict(extra="forbid")


class ConditionallyRequired(Form):
    """Required under a condition."""

    conditionally_required: Text


class Recommended(Form):
    """Recommended for a reason."""

    recommended: Text


RequirementLevel = Literal["required", "recommended", "opt_in"] | ConditionallyRequired | Recommended


class Member(Form):
    """One value of an enumeration."""

    id: Text
    value: str | int
    brief: Text | None = None
    stability: Stability


class Enumeration(Form):
    """An attribute type: one of several values."""

    members: list[Member] = Field(min_length=1)


class Definition(Form):
    """An attribute that this registry defines."""

    id: Text
    type: Literal["string", "int", "double", "boolean"] | Enumeration
    stability: Stability
    brief: Text
    examples: list[str | int | float | bool] = []

    @property
    def value_type(self) -> str:
        """The type of the attribute's values."""
        return self.type if isinstance(self.type, str) else "string"

    @model_validator(mode="after")
    def examples_fit(self) -> Self:
        """Checks that a string has examples, and that all examples have the attribute's type."""
        if self.type == "string" and not self.examples:
            raise ValueError("a string needs examples")
        if not all(isinstance(example, PYTHON_TYPES[self.value_type]) for example in self.examples):
            raise ValueError(f"an example is no {self.value_type}")
        return self


class Reference(Form):
    """An attribute of a group, defined elsewhere."""

    ref: Text
    requirement_level: RequirementLevel = "recommended"
    role: Literal["identifying", "descriptive"] | None = None
    note: Text | None = None
    examples: list[str | int | float | bool] = []


class Group(Form):
    """What all groups have."""

    id: Text
    brief: Text
    note: Text | None = None
    extends: Text | None = None


class AttributeGroup(Group):
    """Definitions, or references for others to extend."""

    type: Literal["attribute_group"]
    display_name: Text | None = None
    attributes: list[Definition] | list[Reference]


class SpanAnnotations(Form):
    """Our own annotation: the name of the spans, with attributes in braces."""

    span_name: list[Text]


class SpanGroup(Group):
    """A kind of span."""

    type: Literal["span"]
    stability: Stability
    span_kind: Literal["client", "server", "producer", "consumer", "internal"]
    annotations: SpanAnnotations
    events: list[Text] = []
    attributes: list[Reference]


class EventGroup(Group):
    """An event."""

    type: Literal["event"]
    stability: Stability
    name: Text
    attributes: list[Reference] = []


class MetricGroup(Group):
    """A metric."""

    type: Literal["metric"]
    stability: Stability
    metric_name: Text
    instrument: Literal["counter", "gauge", "histogram", "updowncounter"]
    unit: str
    attributes: list[Reference] = []


class EntityGroup(Group):
    """A part of a resource."""

    type: Literal["entity"]
    stability: Stability
    name: Text
    attributes: list[Reference]


class File(Form):
    """A file of the registry."""

    groups: list[
        Annotated[AttributeGroup | SpanGroup | EventGroup | MetricGroup | EntityGroup, Field(discriminator="type")]
    ]


class Dependency(Form):
    """Another registry."""

    schema_url: HttpUrl
    registry_path: Text


class Manifest(Form):
    """The manifest of the registry."""

    schema_url: HttpUrl
    description: Text
    stability: Stability
    dependencies: list[Dependency]


def upstream_names() -> set[str]:
    """The names of the conventions' attributes, from the installed package."""
    return {
        value
        for package in (opentelemetry.semconv.attributes, opentelemetry.semconv._incubating.attributes)
        for module in pkgutil.iter_modules(package.__path__)
        for name, value in vars(import_module(f"{package.__name__}.{module.name}")).items()
        if name.isupper() and isinstance(value, str)
    }


class Registry:
    """The registry, with its references resolved.

    Args:
        folder: The folder with its files.

    Raises:
        ValueError: If a file breaks a rule.
    """

    def __init__(self, folder: Path) -> None:
        files = {path.name: yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))}
        self.manifest = Manifest.model_validate(files.pop("manifest.yaml"))
        groups = [group for content in files.values() for group in File.model_validate(content).groups]
        self.groups = {group.id: group for group in groups}
        definitions = [
            attribute for group in groups for attribute in group.attributes if isinstance(attribute, Definition)
        ]
        self.definitions = {definition.id: definition for definition in definitions}
        if len(self.groups) < len(groups) or len(self.definitions) < len(definitions):
            raise ValueError("an id is there twice")
        upstream = upstream_names()
        if ours := self.definitions.keys() & upstream:
            raise ValueError(f"the conventions define {ours}")
        used = {reference.ref for group in groups for reference in self.references(group)}
        if unknown := used - upstream - self.definitions.keys():
            raise ValueError(f"nobody defines {unknown}")
        if unused := self.definitions.keys() - used:
            raise ValueError(f"nothing has {unused}")

    def of(self, form: type[Any]) -> Iterator[Any]:
        """The groups of one form."""
        return (group for group in self.groups.values() if isinstance(group, form))

    def defined_in(self, group_id: str) -> list[str]:
        """The attributes that a group defines."""
        return [item.id for item in getattr(self.groups[group_id], "attributes", []) if isinstance(item, Definition)]

    def references(self, group: Group) -> list[Reference]:
        """The attributes of a group, inherited ones included."""
        own = [attribute for attribute in getattr(group, "attributes", []) if isinstance(attribute, Reference)]
        return [*(self.references(self.groups[group.extends]) if group.extends else []), *own]

    def type_of(self, attribute: str) -> str:
        """The type of an attribute's values."""
        if definition := self.definitions.get(attribute):
            return definition.value_type
        return UPSTREAM_TYPES.get(attribute, "string")

    def facts(self) -> set[Fact]:
        """What must be emitted: everything that is not off by default."""
        return {fact for fact, optional in self._all_facts() if not optional}

    def allowed_facts(self) -> set[Fact]:
        """What may be emitted."""
        return {fact for fact, _ in self._all_facts()}

    def _all_facts(self) -> Iterator[tuple[Fact, bool]]:
        for name, definition in self.definitions.items():
            if isinstance(definition.type, Enumeration):
                yield from (((name, "value", str(member.value)), False) for member in definition.type.members)
        for what, group in self.emitted.items():
            for reference in self.references(group):
                yield (what, reference.ref, self.type_of(reference.ref)), reference.requirement_level == "opt_in"
            if isinstance(group, SpanGroup):
                yield from (((what, "span name", name), False) for name in group.annotations.span_name)
                yield from (((what, "event", self.groups[event].name), False) for event in group.events)  # pyright: ignore[reportAttributeAccessIssue] (an event has a name)
            if isinstance(group, MetricGroup):
                yield (what, "instrument", group.instrument), False
                yield (what, "unit", group.unit), False

    @cached_property
    def emitted(self) -> dict[str, Group]:
        """What is emitted, by its name in facts."""
        return {
            **{f"{group.span_kind} span": group for group in self.of(SpanGroup)},
            **{f"event {group.name}": group for group in self.of(EventGroup)},
            **{f"metric {group.metric_name}": group for group in self.of(MetricGroup)},
            **{f"resource {group.name}": group for group in self.of(EntityGroup)},
            "log record": self.groups["log.mqtt_tracing.record"],
        }
