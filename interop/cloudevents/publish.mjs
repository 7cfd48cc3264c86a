// Publishes one reading as a CloudEvent in binary mode, in a span whose context travels in the message's user properties.
import { randomUUID } from "node:crypto";
import { context, propagation, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";
import { NodeSDK } from "@opentelemetry/sdk-node";
import { CloudEvent, MQTT } from "cloudevents";
import { connectAsync } from "mqtt";

const {
  MQTT_HOST = "127.0.0.1",
  MQTT_PORT = "1883",
  MQTT_OPERATOR_USERNAME = "operator",
  MQTT_OPERATOR_PASSWORD = "operator-secret",
} = process.env;
const topic = "sensors/cloudevents-001/reading";
const reading = {
  message_id: randomUUID(),
  device_id: "cloudevents-001",
  sequence: 1,
  timestamp: new Date().toISOString(),
  temperature_c: 20.5,
  humidity_pct: 40.1,
};

const sdk = new NodeSDK({ serviceName: "cloudevents-publisher" });
sdk.start();
const login = { protocolVersion: 5, username: MQTT_OPERATOR_USERNAME, password: MQTT_OPERATOR_PASSWORD };
const client = await connectAsync(`mqtt://${MQTT_HOST}:${MQTT_PORT}`, login, false);

const attributes = {
  "messaging.system": "mqtt",
  "messaging.operation.name": "publish",
  "messaging.operation.type": "send",
  "messaging.destination.name": topic,
  "messaging.message.id": reading.message_id,
  "server.address": MQTT_HOST,
  "server.port": Number(MQTT_PORT),
};
const span = trace.getTracer("publish.mjs").startSpan(`publish ${topic}`, { kind: SpanKind.PRODUCER, attributes });
const fields = {};
propagation.inject(trace.setSpan(context.active(), span), fields);
// By CloudEvents' distributed tracing extension, traceparent and tracestate are attributes of the event.
const source = "/sensors/cloudevents-001";
const event = new CloudEvent({ type: "reading", source, id: reading.message_id, data: reading, ...fields });
// The SDK also lists attributes without a value, which mqtt.js cannot write.
const attributesOfEvent = Object.entries(MQTT.binary(event)["User Properties"]).filter(([, value]) => value !== undefined);
const properties = { contentType: "application/json", userProperties: Object.fromEntries(attributesOfEvent) };
try {
  await client.publishAsync(topic, JSON.stringify(reading), { qos: 1, properties });
  console.log(span.spanContext().traceId);
} catch (error) {
  span.setAttribute("error.type", String(error.code ?? error.name));
  span.setStatus({ code: SpanStatusCode.ERROR, message: error.message });
  throw error;
} finally {
  span.end();
  await client.endAsync();
  await sdk.shutdown();
}
