import com.hivemq.client.mqtt.mqtt5.datatypes.Mqtt5UserProperties;
import io.opentelemetry.context.propagation.TextMapGetter;
import java.util.Set;

/** Lets a propagator read a message's user properties; in the client's list of pairs a name can occur several times. */
final class UserPropertiesGetter implements TextMapGetter<Mqtt5UserProperties> {
  @Override
  public String get(Mqtt5UserProperties userProperties, String name) {
    var values = userProperties.asList().stream()
        .filter(pair -> pair.getName().toString().equals(name))
        .map(pair -> pair.getValue().toString())
        .toList();
    if (!name.equals("traceparent")) {
      return values.isEmpty() ? null : String.join(",", values);
    }
    // Equal values count as one; different values contradict each other, and none can be trusted.
    return Set.copyOf(values).size() == 1 ? values.get(0) : null;
  }
}
