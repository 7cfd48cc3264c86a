import com.hivemq.client.mqtt.mqtt5.Mqtt5BlockingClient;
import com.hivemq.client.mqtt.mqtt5.Mqtt5Client;
import io.opentelemetry.sdk.OpenTelemetrySdk;
import io.opentelemetry.sdk.autoconfigure.AutoConfiguredOpenTelemetrySdk;
import java.util.Map;

/** What the publisher and the subscriber share: the SDK, and the connection to the broker. */
final class Stack {
  private Stack() {}

  /** Sets up the SDK from OTEL_*; by default it sends OTLP by gRPC, to another port. */
  static OpenTelemetrySdk telemetry(String service) {
    var defaults = Map.of("otel.service.name", service, "otel.exporter.otlp.protocol", "http/protobuf");
    return AutoConfiguredOpenTelemetrySdk.builder()
        .addPropertiesSupplier(() -> defaults)
        .build()
        .getOpenTelemetrySdk();
  }

  /** Logs in at the broker as a user such as "operator". */
  static Mqtt5BlockingClient connect(String user) {
    var login = "MQTT_" + user.toUpperCase();
    var client = Mqtt5Client.builder()
        .serverHost(env("MQTT_HOST", "127.0.0.1"))
        .serverPort(Integer.parseInt(env("MQTT_PORT", "1883")))
        .simpleAuth()
        .username(env(login + "_USERNAME", user))
        .password(env(login + "_PASSWORD", user + "-secret").getBytes())
        .applySimpleAuth()
        .buildBlocking();
    client.connect();
    return client;
  }

  private static String env(String name, String otherwise) {
    return System.getenv().getOrDefault(name, otherwise);
  }
}
