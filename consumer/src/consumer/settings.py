"""The consumer's settings."""

from pathlib import Path
from typing import Any, Literal, Self

import paho.mqtt.client as mqtt
from pydantic import Field, HttpUrl, SecretStr, model_validator
from typing_extensions import override

from service.delivery import ConsumerSettings
from service.partitions import A_NUMBER_OF_PARTITIONS, MOST_PARTITIONS, readings_of

# If two processes own a partition, as during an update, they take the connection from each other; the pause lets each
# do some work with it.
PAUSE_SECONDS = 5
# Stands for the number of the partition in a client id and in a user's name.
PARTITION = "{partition}"


class Settings(ConsumerSettings):
    """Each field is the environment variable of the same name in capitals."""

    mqtt_consumer_username: str = "consumer"
    mqtt_consumer_password: SecretStr = SecretStr("consumer-secret")
    mqtt_client_id: str = Field(default="consumer", min_length=1, description="a name that no other client has")
    mqtt_consumer_protocol: Literal["5", "3.1.1"] = Field(default="5", description="5 or 3.1.1")
    partitions: int | None = Field(default=None, ge=1, le=MOST_PARTITIONS, description=A_NUMBER_OF_PARTITIONS)
    consumer_ordinal: int = Field(default=0, ge=0, description="the number of this consumer, from 0 on")
    cpu_affinity: Literal["none", "auto"] = Field(default="none", description="none or auto")
    echo_url: HttpUrl = Field(default=HttpUrl("http://127.0.0.1:8080/echo"), description="an http:// or https:// URL")
    echo_timeout_seconds: float = Field(default=3.0, gt=0, le=60, description="seconds, up to 60")
    health_file: Path = Field(default=Path("/tmp/consumer.healthy"), description="a path to touch while healthy")  # noqa: S108 (the container's own)

    def new_consumer_client(self, client_id: str, username: str) -> mqtt.Client:
        """Makes a client for the session of this client id."""
        mqtt_5 = self.mqtt_consumer_protocol == "5"
        client = self.new_client(client_id, username, self.mqtt_consumer_password, mqtt_5=mqtt_5, session=True)
        if self.partitions:
            client.reconnect_delay_set(PAUSE_SECONDS, 30)
        return client

    @property
    def own_partitions(self) -> range:
        """The partitions that this consumer owns; each has one owner among ``consumers``."""
        return range(self.consumer_ordinal, self.partitions or 0, self.consumers)

    def session_of(self, partition: int) -> tuple[str, str]:
        """The client id and the user of a partition's session, whoever owns it."""
        both = (self.mqtt_client_id, self.mqtt_consumer_username)
        client_id, username = (name.replace(PARTITION, str(partition)) for name in both)
        return client_id, username

    def filter_of(self, client_id: str) -> str:
        """What the session of a client id is subscribed to."""
        filters = {self.session_of(number)[0]: readings_of(number) for number in range(self.partitions or 0)}
        return filters.get(client_id, self.topic_filter)

    @property
    @override
    def delivery(self) -> dict[str, Any]:
        # A partition has one reader at a time, so it needs no share.
        return super().delivery | ({"consumers": 1} if self.partitions else {})

    @model_validator(mode="after")
    def _owns_partitions(self) -> Self:
        if self.partitions is None:
            return self
        if self.consumers > self.partitions:
            raise ValueError(f"CONSUMERS is {self.consumers}; it must be up to {self.partitions}, which is PARTITIONS")
        if self.consumer_ordinal >= self.consumers:
            raise ValueError(
                f"CONSUMER_ORDINAL is {self.consumer_ordinal}; it must be less than CONSUMERS, {self.consumers}"
            )
        if PARTITION not in self.mqtt_client_id:
            raise ValueError(
                f"MQTT_CLIENT_ID is {self.mqtt_client_id!r}; with PARTITIONS it must have {PARTITION} in it"
            )
        return self
