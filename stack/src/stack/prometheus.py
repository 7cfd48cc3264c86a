"""The query API of Prometheus, called directly or through Grafana."""

from stack.ask import ask_json
from stack.errors import StackError
from stack.part import local_url

# The path in Grafana of the data source that is Prometheus.
IN_GRAFANA = "/api/datasources/proxy/uid/prometheus"


def prometheus_value(who: str, port: int, expression: str) -> float:
    """The sum over all series of an expression; 0 if there are none.

    Args:
        who: ``prometheus``, or ``grafana``, whose data source is queried.
        port: The port of it.
        expression: In Prometheus's language.

    Raises:
        StackError: If it does not answer, or refuses the expression.
    """
    url = local_url(port, f"{IN_GRAFANA if who == 'grafana' else ''}/api/v1/query")
    found = ask_json(who, url, params={"query": expression}) or {}
    if found.get("status") != "success":
        raise StackError(f"{who} refuses {expression}: {found.get('error') or found.get('message')}")
    return sum(float(series["value"][1]) for series in found["data"]["result"])
