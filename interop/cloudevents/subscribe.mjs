// Processes messages, CloudEvents or not, each in a span that continues its trace: [filter] [how many].
import { propagation, ROOT_CONTEXT, SpanKind, trace } from "@opentelemetry/api";
import { NodeSDK } from "@opentelemetry/sdk-node";
import { MQTT } from "cloudevents";
import { connectAsync } from "mqtt";

const { MQTT_HOST = "127.0.0.1", MQTT_PORT = "1883" } = process.env;
const { MQTT_OPERATOR_USERNAME = "operator", MQTT_OPERATOR_PASSWORD = "operator-secret" } = process.env;
const [filter = "sensors/+/reading", count = "1"] = process.argv.slice(2);

// User properties in the form of mqtt.js: a name with several values has an array.
const getter = {
  keys: (userProperties) => Object.keys(userProperties),
  get(userProperties, name) {
    const values = [userProperties[name] ?? []].flat();
    if (name !== "traceparent") return values.length ? values.join(",") : undefined;
    // Equal values count as one; different values contradict each other, and none can be trusted.
    return new Set(values).size === 1 ? values[0] : undefined;
  },
};

const sdk = new NodeSDK({ serviceName: "cloudevents-subscriber" });
sdk.start();
const tracer = trace.getTracer("subscribe.mjs");
const login = { protocolVersion: 5, username: MQTT_OPERATOR_USERNAME, password: MQTT_OPERATOR_PASSWORD };
const client = await connectAsync(`mqtt://${MQTT_HOST}:${MQTT_PORT}`, login, false);

function handle({ topic, payload, properties }) {
  const message = { headers: properties?.userProperties ?? {}, body: payload };
  const event = MQTT.isEvent(message) ? MQTT.toEvent(message) : undefined;
  const carried = propagation.extract(ROOT_CONTEXT, message.headers, getter);
  const parent = trace.getSpanContext(carried);
  const attributes = {
    "messaging.system": "mqtt",
    "messaging.operation.name": "process",
    "messaging.operation.type": "process",
    "messaging.destination.name": topic,
    ...(event ? { "cloudevents.event_id": event.id, "cloudevents.event_source": event.source } : {}),
    ...(parent ? {} : { "mqtt.missing_context": true }),
  };
  const links = parent ? [{ context: parent }] : [];
  tracer.startActiveSpan(`process ${topic}`, { kind: SpanKind.CONSUMER, attributes, links }, carried, (span) => {
    // The work goes here. This example prints the context.
    const fields = {};
    propagation.inject(carried, fields);
    console.log(JSON.stringify(fields));
    span.end();
  });
}

let left = Number(count);
const done = new Promise((resolve) => {
  client.on("message", (_topic, _payload, packet) => left-- > 0 && (handle(packet), left || resolve()));
});
await client.subscribeAsync(filter, { qos: 1 });
console.log(`subscribed to ${filter}`);
await done;
await client.endAsync();
await sdk.shutdown();
