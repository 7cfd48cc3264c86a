"""The viewer's query API: JSON-RPC 2.0 at ``/rpc`` (otel-desktop-viewer 0.4)."""

from typing import Any

from typing_extensions import override

from stack.ask import ask_json
from stack.errors import StackError
from stack.trace import LogRecord, Span, TraceBackend, Value

_CONVERT = {"int64": int, "float64": float, "bool": lambda text: text == "true"}


class Viewer(TraceBackend):
    """Queries a running viewer."""

    @override
    def trace(self, trace_id: str) -> list[Span]:
        found = self._call("searchSpans", trace_id)
        return [_span(entry["spanData"]) for entry in found["spans"]] if found else []

    def trace_ids(self, start: int, end: int, attribute: tuple[str, str] | None = None) -> list[str]:
        """Ids of the traces that have a span between two times, in nanoseconds since 1970; the newest first.

        Args:
            start: The earliest start of a span.
            end: The latest start of a span.
            attribute: Name and value; limits the result to traces with a span that has this attribute.
        """
        if attribute is None:
            return list(self.span_counts(start, end))
        name, value = attribute
        return self._ids(start, end, _attribute("span", name), value)

    @override
    def linking_trace_ids(self, trace_id: str, start: int, end: int) -> list[str]:
        return self._ids(start, end, _field("link.traceID"), trace_id)

    def trace_ids_of(self, service: str, start: int, end: int) -> list[str]:
        """Ids of the traces that have a span of a service; times and order as for ``trace_ids``."""
        return self._ids(start, end, _attribute("resource", "service.name"), service)

    def span_counts(self, start: int, end: int) -> dict[str, int]:
        """The number of spans of each trace that started between two times; times and order as for ``trace_ids``."""
        return {summary["traceID"]: summary["spanCount"] for summary in self._search("searchTraces", start, end)}

    def logs(self, trace_id: str, start: int, end: int) -> list[LogRecord]:
        """The log records of a trace, ordered by time; times as for ``trace_ids``."""
        found = self._search("searchLogs", start, end, _field("traceID"), trace_id)
        records = [
            LogRecord(int(entry["timestamp"]), entry["severityText"], entry["serviceName"], entry["bodyPreview"])
            for entry in found
        ]
        return sorted(records, key=lambda record: record.time)

    @override
    def page(self, trace_id: str) -> str:
        return f"{self._url}/traces/{trace_id}"

    def _ids(self, start: int, end: int, where: dict[str, str], value: str) -> list[str]:
        return [summary["traceID"] for summary in self._search("searchTraces", start, end, where, value)]

    def _search(
        self, method: str, start: int, end: int, where: dict[str, str] | None = None, value: str = ""
    ) -> list[dict[str, Any]]:
        parameters: list[Any] = [str(start), str(end)]
        # For the viewer this word means "without a value".
        if value == "NULL":
            return []
        if where:
            query = {"field": where, "fieldOperator": "=", "value": value}
            parameters.append({"type": "condition", "query": query})
        return self._call(method, *parameters)

    def _call(self, method: str, *parameters: Any) -> Any:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(parameters)}
        answer = ask_json("the viewer", f"{self._url}/rpc", method="POST", json=request)
        match answer:
            case {"result": result}:
                return result
            case {"error": {"code": -32001}}:
                # There is no such trace.
                return None
            case _:
                raise StackError(f"the viewer at {self._url} refuses {method}: {answer}")


def _field(name: str) -> dict[str, str]:
    return {"name": name, "searchScope": "field", "type": "string"}


def _attribute(scope: str, name: str) -> dict[str, str]:
    return {"name": name, "searchScope": "attribute", "attributeScope": scope, "type": "string"}


def _values(attributes: list[dict[str, str]]) -> dict[str, Value]:
    return {entry["key"]: _CONVERT.get(entry["type"], str)(entry["value"]) for entry in attributes}


def _span(data: dict[str, Any]) -> Span:
    resource = _values(data["resource"]["attributes"])
    return Span(
        trace_id=data["traceID"],
        span_id=data["spanID"],
        parent_id=data["parentSpanID"],
        name=data["name"],
        kind=data["kind"],
        service=str(resource.get("service.name", "")),
        start=int(data["startTime"]),
        end=int(data["endTime"]),
        attributes=_values(data["attributes"]),
        resource=resource,
        status=data["statusCode"],
        status_message=data["statusMessage"],
        links=tuple((link["traceID"], link["spanID"]) for link in data["links"]),
    )
