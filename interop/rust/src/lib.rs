//! What the publisher and the subscriber share: the SDK, the connection to the broker, and the carrier.

use std::{collections::HashMap, env, error::Error};

use opentelemetry::propagation::TextMapCompositePropagator;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use rumqttc::Outgoing;
use rumqttc::v5::{Client, Connection, Event, MqttOptions};
use uuid::Uuid;

/// Reads and writes W3C Trace Context and Baggage.
pub fn propagator() -> TextMapCompositePropagator {
    TextMapCompositePropagator::new(vec![Box::new(TraceContextPropagator::new()), Box::new(BaggagePropagator::new())])
}

/// Sets up the SDK; its exporter reads OTEL_EXPORTER_OTLP_ENDPOINT.
pub fn telemetry(service: &'static str) -> Result<SdkTracerProvider, Box<dyn Error>> {
    let exporter = SpanExporter::builder().with_http().build()?;
    let resource = Resource::builder().with_service_name(service).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// Makes a client that logs in as a user such as "operator"; it connects when its events are polled.
pub fn client(user: &str) -> Result<(Client, Connection), Box<dyn Error>> {
    let or = |name: &str, default: &str| env::var(name).unwrap_or(default.to_string());
    let login = format!("MQTT_{}", user.to_uppercase());
    let port = or("MQTT_PORT", "1883").parse()?;
    let mut options = MqttOptions::new(Uuid::new_v4(), or("MQTT_HOST", "127.0.0.1"), port);
    options.set_credentials(
        or(&format!("{login}_USERNAME"), user),
        or(&format!("{login}_PASSWORD"), &format!("{user}-secret")),
    );
    Ok(Client::new(options, 10))
}

/// Sends DISCONNECT, so that the broker does not publish a will.
pub fn disconnect(client: Client, mut connection: Connection) -> Result<(), Box<dyn Error>> {
    client.disconnect()?;
    connection.iter().find(|event| matches!(event, Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(_)));
    Ok(())
}

/// Lets the propagator read the user properties; in rumqttc's list of pairs a name can occur several times.
pub fn carrier(user_properties: &[(String, String)]) -> HashMap<String, String> {
    let mut carrier: HashMap<String, String> = HashMap::new();
    for name in ["traceparent", "tracestate", "baggage"] {
        let named = user_properties.iter().filter(|pair| pair.0 == name);
        let mut values: Vec<&str> = named.map(|pair| pair.1.as_str()).collect();
        if name == "traceparent" {
            // Equal values count as one; different values contradict each other, and none can be trusted.
            values.dedup();
        }
        if name != "traceparent" || values.len() == 1 {
            carrier.insert(name.to_string(), values.join(","));
        }
    }
    carrier
}
