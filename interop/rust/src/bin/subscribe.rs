//! Processes messages, each in a span that continues the trace in its user properties: [filter] [how many].

use std::{collections::HashMap, env, error::Error};

use interop::{carrier, client, disconnect, propagator, telemetry};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span, SpanKind, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracerProvider;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{Event, mqttbytes::QoS};

fn handle(provider: &SdkTracerProvider, message: Publish) -> Result<(), Box<dyn Error>> {
    let topic = String::from_utf8(message.topic.to_vec())?;
    let properties = message.properties.unwrap_or_default();
    let carried = propagator().extract_with_context(&Context::new(), &carrier(&properties.user_properties));
    let parent = carried.span().span_context().clone();
    let tracer = provider.tracer("subscribe");
    let builder = tracer.span_builder(format!("process {topic}")).with_kind(SpanKind::Consumer);
    let mut span = builder.start_with_context(&tracer, &carried);
    span.set_attribute(KeyValue::new("messaging.system", "mqtt"));
    span.set_attribute(KeyValue::new("messaging.operation.name", "process"));
    span.set_attribute(KeyValue::new("messaging.operation.type", "process"));
    span.set_attribute(KeyValue::new("messaging.destination.name", topic));
    if parent.is_valid() {
        span.add_link(parent, vec![]);
    } else {
        span.set_attribute(KeyValue::new("mqtt.missing_context", true));
    }
    // The work goes here. This example prints the context that it would pass on.
    let mut fields = HashMap::new();
    propagator().inject_context(&carried, &mut fields);
    println!("{}", serde_json::to_string(&fields)?);
    span.end();
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let filter = arguments.next().unwrap_or("sensors/+/reading".to_string());
    let mut left: usize = arguments.next().unwrap_or("1".to_string()).parse()?;
    let provider = telemetry("rust-subscriber")?;
    let (client, mut connection) = client("operator")?;
    client.subscribe(&filter, QoS::AtLeastOnce)?;
    for event in connection.iter() {
        match event? {
            Event::Incoming(Packet::SubAck(_)) => println!("subscribed to {filter}"),
            Event::Incoming(Packet::Publish(message)) => {
                handle(&provider, message)?;
                left -= 1;
            }
            _ => {}
        }
        if left == 0 {
            break;
        }
    }
    provider.shutdown()?;
    disconnect(client, connection)
}
