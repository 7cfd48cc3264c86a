"""The query APIs of Zipkin and Jaeger; they return traces in the stack's own form."""

from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from stack.ask import ask_json
from stack.contract import INTEGERS
from stack.trace import Span, TraceBackend, Value


class Zipkin(TraceBackend):
    """Queries Zipkin by its API version 2."""

    @override
    def trace(self, trace_id: str) -> list[Span]:
        return [_zipkin_span(data) for data in ask_json("zipkin", f"{self._url}/api/v2/trace/{trace_id}") or []]

    @override
    def page(self, trace_id: str) -> str:
        return f"{self._url}/zipkin/traces/{trace_id}"


class Jaeger(TraceBackend):
    """Queries Jaeger by the API of its own UI."""

    @override
    def trace(self, trace_id: str) -> list[Span]:
        found = ask_json("jaeger", f"{self._url}/api/traces/{trace_id}") or {}
        return [_jaeger_span(span, trace["processes"]) for trace in found.get("data") or [] for span in trace["spans"]]

    @override
    def page(self, trace_id: str) -> str:
        return f"{self._url}/trace/{trace_id}"


def _zipkin_span(data: dict[str, Any]) -> Span:
    # Tags are strings, and include the resource's attributes.
    tags: dict[str, str] = data.get("tags", {})
    attributes: dict[str, Value] = {
        name: int(value) if name in INTEGERS and value.isdigit() else value for name, value in tags.items()
    }
    # Zipkin stores names in lower case, but the method of an HTTP span is in capitals.
    method = tags.get("http.request.method", "")
    failed = tags.get("otel.status_code") == "ERROR" or "error" in tags
    return Span(
        trace_id=data["traceId"],
        span_id=data["id"],
        parent_id=data.get("parentId"),
        name=method + data["name"][len(method) :],
        kind=data.get("kind", "INTERNAL").capitalize(),
        service=data["localEndpoint"]["serviceName"],
        start=data["timestamp"] * 1000,
        end=(data["timestamp"] + data.get("duration", 0)) * 1000,
        attributes=attributes,
        resource={},
        status="Error" if failed else "Unset",
        status_message=tags.get("error", ""),
    )


def _jaeger_span(data: dict[str, Any], processes: Mapping[str, Any]) -> Span:
    process = processes[data["processID"]]
    attributes: dict[str, Value] = {tag["key"]: tag["value"] for tag in data["tags"]}
    parents = [reference["spanID"] for reference in data["references"] if reference["refType"] == "CHILD_OF"]
    links = [reference for reference in data["references"] if reference["refType"] != "CHILD_OF"]
    # Jaeger keeps only one reference to a span: if a span also has a link to its parent, the reference is the link.
    parents += [reference["spanID"] for reference in links if reference["traceID"] == data["traceID"]]
    return Span(
        trace_id=data["traceID"],
        span_id=data["spanID"],
        parent_id=parents[0] if parents else None,
        name=data["operationName"],
        kind=str(attributes.get("span.kind", "internal")).capitalize(),
        service=process["serviceName"],
        start=data["startTime"] * 1000,
        end=(data["startTime"] + data["duration"]) * 1000,
        attributes=attributes,
        resource={tag["key"]: tag["value"] for tag in process["tags"]},
        status="Error" if attributes.get("error") else "Unset",
        status_message=str(attributes.get("otel.status_description", "")),
        links=tuple((link["traceID"], link["spanID"]) for link in links),
    )
