"""The query API of Prometheus, called directly or through Grafana."""

from stack.ask import ask_json
from stack.errors import StackError
from stack.part import local_url


class Prometheus:
    """Queries Prometheus by its HTTP API version 1.

    Args:
        port: The port of Prometheus or Grafana.
        through_grafana: True if the port is Grafana's, whose data source is queried.
    """

    def __init__(self, port: int, *, through_grafana: bool = False) -> None:
        self._name = "grafana" if through_grafana else "prometheus"
        self._url = local_url(port, "/api/datasources/proxy/uid/prometheus" if through_grafana else "")

    def value(self, expression: str) -> float:
        """The sum over all series of an expression; 0 if there are none.

        Raises:
            StackError: If it does not answer, or refuses the expression.
        """
        found = ask_json(self._name, f"{self._url}/api/v1/query", params={"query": expression}) or {}
        if found.get("status") != "success":
            raise StackError(f"{self._name} refuses {expression}: {found.get('error') or found.get('message')}")
        return sum(float(series["value"][1]) for series in found["data"]["result"])
