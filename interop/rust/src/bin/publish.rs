//! Publishes one reading, in a span whose context travels in the message's user properties.

use std::{collections::HashMap, error::Error, time::SystemTime};

use interop::{client, disconnect, propagator, telemetry};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason, PublishProperties};
use rumqttc::v5::{Event, mqttbytes::QoS};

const TOPIC: &str = "sensors/rust-001/reading";

fn main() -> Result<(), Box<dyn Error>> {
    let provider = telemetry("rust-publisher")?;
    let id = uuid::Uuid::new_v4().to_string();
    let (client, mut connection) = client("operator")?;
    let reading = serde_json::json!({
        "message_id": id, "device_id": "rust-001", "sequence": 1, "temperature_c": 20.5, "humidity_pct": 40.1,
        "timestamp": humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
    });

    let tracer = provider.tracer("publish");
    let builder = tracer.span_builder(format!("publish {TOPIC}"));
    let span = builder.with_kind(SpanKind::Producer).with_attributes([
        KeyValue::new("messaging.system", "mqtt"),
        KeyValue::new("messaging.operation.name", "publish"),
        KeyValue::new("messaging.operation.type", "send"),
        KeyValue::new("messaging.destination.name", TOPIC),
        KeyValue::new("messaging.message.id", id),
    ]);
    let context = Context::new().with_span(span.start(&tracer));
    let mut fields = HashMap::new();
    propagator().inject_context(&context, &mut fields);
    // The SDK also writes a tracestate without a value.
    let user_properties = fields.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let properties = PublishProperties { user_properties, ..Default::default() };
    client.publish_with_properties(TOPIC, QoS::AtLeastOnce, false, reading.to_string(), properties)?;
    // The span lasts until the PUBACK.
    let acknowledgement = connection.iter().find_map(|event| match event {
        Ok(Event::Incoming(Packet::PubAck(ack))) => Some(Ok(ack.reason)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    });
    let refused = match acknowledgement.ok_or("the connection ended")?? {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => None,
        reason => Some(format!("{reason:?}")),
    };
    if let Some(reason) = &refused {
        context.span().set_status(Status::error(reason.clone()));
    }
    context.span().end();
    provider.shutdown()?;
    disconnect(client, connection)?;
    println!("{}", context.span().span_context().trace_id());
    refused.map_or(Ok(()), |reason| Err(reason.into()))
}
