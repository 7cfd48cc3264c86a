"""aiomqtt with our instrumentation: as many tasks as there are workers, each with a thread for its request."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import aiomqtt
import requests
from opentelemetry.instrumentation.paho_mqtt import PahoMqttInstrumentor, process_span

from benchmarks.programs.compared import Work, connect_properties
from consumer.settings import Settings
from service import load_settings


async def process(messages: "asyncio.Queue[aiomqtt.Message]", work: Work) -> None:
    """Processes messages one by one."""
    while True:
        message = await messages.get()
        with process_span(message):
            await asyncio.to_thread(work, message.topic.value, bytes(message.payload))


async def main() -> None:
    """Processes the readings of the consumer's session."""
    settings = load_settings(Settings)
    work = Work(settings, requests.Session())
    PahoMqttInstrumentor().instrument(process_spans=False)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(settings.workers))
    client = aiomqtt.Client(
        settings.mqtt_host,
        settings.mqtt_port,
        username=settings.mqtt_consumer_username,
        password=settings.mqtt_consumer_password.get_secret_value(),
        identifier="consumer",
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=False,
        properties=connect_properties(settings),
    )
    queue: asyncio.Queue[aiomqtt.Message] = asyncio.Queue(settings.queue_size)
    async with client, asyncio.TaskGroup() as tasks:
        for _ in range(settings.workers):
            tasks.create_task(process(queue, work))
        await client.subscribe(settings.topic_filter, qos=1)
        async for message in client.messages:
            await queue.put(message)


if __name__ == "__main__":
    asyncio.run(main())
