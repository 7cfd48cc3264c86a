"""One simulated sensor."""

import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from service.partitions import reading_topic


@dataclass
class Sensor:
    """A room sensor whose values drift around 21 °C and 45 % relative humidity."""

    device_id: str
    sequence: int = 0
    temperature_c: float = 21.0
    humidity_pct: float = 45.0
    partitions: int | None = None

    @property
    def topic(self) -> str:
        """The topic of its readings."""
        return reading_topic(self.device_id, self.partitions)

    def read(self) -> str:
        """Takes the next reading, as JSON."""
        self.sequence += 1
        self.temperature_c = drift(self.temperature_c, towards=21.0, step=0.2)
        self.humidity_pct = drift(self.humidity_pct, towards=45.0, step=0.5)
        return json.dumps(
            {
                "message_id": str(uuid4()),
                "device_id": self.device_id,
                "sequence": self.sequence,
                "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "temperature_c": round(self.temperature_c, 1),
                "humidity_pct": round(self.humidity_pct, 1),
            }
        )


def drift(value: float, towards: float, step: float) -> float:
    """A random step, pulled back towards a value; the farther away, the stronger."""
    return value + random.gauss(0.0, step) + 0.05 * (towards - value)
