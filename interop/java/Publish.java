import com.google.gson.Gson;
import com.hivemq.client.mqtt.datatypes.MqttQos;
import com.hivemq.client.mqtt.mqtt5.datatypes.Mqtt5UserProperties;
import io.opentelemetry.api.trace.SpanKind;
import io.opentelemetry.api.trace.StatusCode;
import io.opentelemetry.context.Context;
import java.time.Instant;
import java.util.Map;
import java.util.UUID;

/** Publishes one reading, in a span whose context travels in the message's user properties. */
final class Publish {
  private static final String TOPIC = "sensors/java-001/reading";

  public static void main(String[] arguments) {
    var id = UUID.randomUUID().toString();
    Map<String, Object> reading = Map.of(
        "message_id", id, "device_id", "java-001", "sequence", 1, "timestamp", Instant.now().toString(),
        "temperature_c", 20.5, "humidity_pct", 40.1);
    var sdk = Stack.telemetry("java-publisher");
    var client = Stack.connect("operator");

    var span = sdk.getTracer("Publish")
        .spanBuilder("publish " + TOPIC)
        .setSpanKind(SpanKind.PRODUCER)
        .setAttribute("messaging.system", "mqtt")
        .setAttribute("messaging.operation.name", "publish")
        .setAttribute("messaging.operation.type", "send")
        .setAttribute("messaging.destination.name", TOPIC)
        .setAttribute("messaging.message.id", id)
        .startSpan();
    var userProperties = Mqtt5UserProperties.builder();
    sdk.getPropagators().getTextMapPropagator()
        .inject(Context.root().with(span), userProperties, (carrier, name, value) -> carrier.add(name, value));
    try {
      // Returns when the PUBACK arrives; throws if the broker refuses the message.
      client.publishWith()
          .topic(TOPIC)
          .qos(MqttQos.AT_LEAST_ONCE)
          .userProperties(userProperties.build())
          .payload(new Gson().toJson(reading).getBytes())
          .send();
      System.out.println(span.getSpanContext().getTraceId());
    } catch (RuntimeException error) {
      span.recordException(error).setStatus(StatusCode.ERROR, error.getMessage());
      throw error;
    } finally {
      span.end();
      sdk.close();
      client.disconnect();
    }
  }
}
