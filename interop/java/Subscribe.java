import com.google.gson.Gson;
import com.hivemq.client.mqtt.MqttGlobalPublishFilter;
import com.hivemq.client.mqtt.datatypes.MqttQos;
import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5Publish;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanKind;
import io.opentelemetry.context.Context;
import io.opentelemetry.sdk.OpenTelemetrySdk;
import java.util.HashMap;

/** Processes messages, each in a span that continues the trace in its user properties: [filter] [how many]. */
final class Subscribe {
  public static void main(String[] arguments) throws InterruptedException {
    var filter = arguments.length > 0 ? arguments[0] : "sensors/+/reading";
    var count = arguments.length > 1 ? Integer.parseInt(arguments[1]) : 1;
    var sdk = Stack.telemetry("java-subscriber");
    var client = Stack.connect("operator");
    try (var messages = client.publishes(MqttGlobalPublishFilter.ALL)) {
      client.subscribeWith().topicFilter(filter).qos(MqttQos.AT_LEAST_ONCE).send();
      System.out.println("subscribed to " + filter);
      for (var left = count; left > 0; left--) {
        handle(messages.receive(), sdk);
      }
    }
    sdk.close();
    client.disconnect();
  }

  private static void handle(Mqtt5Publish message, OpenTelemetrySdk sdk) {
    var propagator = sdk.getPropagators().getTextMapPropagator();
    var carried = propagator.extract(Context.root(), message.getUserProperties(), new UserPropertiesGetter());
    var parent = Span.fromContext(carried).getSpanContext();
    var builder = sdk.getTracer("Subscribe")
        .spanBuilder("process " + message.getTopic())
        .setParent(carried)
        .setSpanKind(SpanKind.CONSUMER)
        .setAttribute("messaging.system", "mqtt")
        .setAttribute("messaging.operation.name", "process")
        .setAttribute("messaging.operation.type", "process")
        .setAttribute("messaging.destination.name", message.getTopic().toString());
    if (parent.isValid()) {
      builder.addLink(parent);
    } else {
      builder.setAttribute("mqtt.missing_context", true);
    }
    var span = builder.startSpan();
    // The work goes here. This example prints the context that it would pass on.
    var fields = new HashMap<String, String>();
    propagator.inject(carried, fields, (carrier, name, value) -> carrier.put(name, value));
    System.out.println(new Gson().toJson(fields));
    span.end();
  }
}
