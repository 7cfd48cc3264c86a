// Publishes one reading, in a span whose context travels in the message's user properties.
package main

import (
	"context"
	"fmt"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"interop/stack"
)

const topic = "sensors/go-001/reading"
const reading = `{"message_id": %q, "device_id": "go-001", "sequence": 1, "timestamp": %q, "temperature_c": 20.5, "humidity_pct": 40.1}`

func main() {
	provider := stack.Telemetry(context.Background(), "go-publisher")
	connection := stack.Connect(context.Background(), "operator")

	id := uuid.NewString()
	ctx, span := provider.Tracer("publish").Start(context.Background(), "publish "+topic,
		trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
			attribute.String("messaging.system", "mqtt"),
			attribute.String("messaging.operation.name", "publish"),
			attribute.String("messaging.operation.type", "send"),
			attribute.String("messaging.destination.name", topic),
			attribute.String("messaging.message.id", id)))
	fields, properties := propagation.MapCarrier{}, &paho.PublishProperties{}
	stack.Propagator.Inject(ctx, fields)
	for name, value := range fields {
		properties.User.Add(name, value)
	}
	payload := fmt.Appendf(nil, reading, id, time.Now().UTC().Format(time.RFC3339Nano))
	// Returns when the PUBACK arrives; a reason code of 0x80 or more is an error.
	_, err := connection.Publish(ctx, &paho.Publish{Topic: topic, QoS: 1, Payload: payload, Properties: properties})
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
	stack.Must(0, provider.Shutdown(ctx))
	stack.Must(0, err)
	fmt.Println(span.SpanContext().TraceID())
	stack.Must(0, connection.Disconnect(ctx))
}
