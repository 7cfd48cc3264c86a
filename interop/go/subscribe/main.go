// Processes messages, each in a span that continues the trace in its user properties: [filter] [how many].
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"strconv"

	"github.com/eclipse/paho.golang/paho"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"interop/stack"
)

func handle(ctx context.Context, tracer trace.Tracer, message *paho.Publish) {
	carried := stack.Propagator.Extract(ctx, stack.Carrier(message.Properties.User))
	_, span := tracer.Start(carried, "process "+message.Topic, trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithLinks(trace.LinkFromContext(carried)), trace.WithAttributes(
			attribute.String("messaging.system", "mqtt"),
			attribute.String("messaging.operation.name", "process"),
			attribute.String("messaging.operation.type", "process"),
			attribute.String("messaging.destination.name", message.Topic)))
	defer span.End()
	if !trace.SpanContextFromContext(carried).IsValid() {
		span.SetAttributes(attribute.Bool("mqtt.missing_context", true))
	}
	// The work goes here. This example prints the context that it would pass on.
	fields := propagation.MapCarrier{}
	stack.Propagator.Inject(carried, fields)
	fmt.Println(string(stack.Must(json.Marshal(fields))))
}

func main() {
	flag.Parse()
	filter, count := cmp.Or(flag.Arg(0), "sensors/+/reading"), stack.Must(strconv.Atoi(cmp.Or(flag.Arg(1), "1")))
	ctx := context.Background()
	provider := stack.Telemetry(ctx, "go-subscriber")
	messages := make(chan *paho.Publish)
	connection := stack.Connect(ctx, "operator", func(received paho.PublishReceived) (bool, error) {
		messages <- received.Packet
		return true, nil
	})
	subscriptions := []paho.SubscribeOptions{{Topic: filter, QoS: 1}}
	stack.Must(connection.Subscribe(ctx, &paho.Subscribe{Subscriptions: subscriptions}))
	fmt.Println("subscribed to", filter)
	for range count {
		handle(ctx, provider.Tracer("subscribe"), <-messages)
	}
	stack.Must(0, provider.Shutdown(ctx))
	stack.Must(0, connection.Disconnect(ctx))
}
