// Package stack has what the publisher and the subscriber share: the SDK, and the connection to the broker.
package stack

import (
	"cmp"
	"context"
	"log"
	"net/url"
	"os"
	"strings"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
)

// Propagator reads and writes W3C Trace Context and Baggage.
var Propagator = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})

// Must returns the value, or ends the program if there is an error.
func Must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

// Telemetry sets up the SDK; its exporter reads OTEL_EXPORTER_OTLP_ENDPOINT.
func Telemetry(ctx context.Context, service string) *trace.TracerProvider {
	name := resource.NewSchemaless(attribute.String("service.name", service))
	return trace.NewTracerProvider(trace.WithBatcher(Must(otlptracehttp.New(ctx))), trace.WithResource(name))
}

// Connect logs in at the broker as a user such as "operator", and ends the program if that fails.
func Connect(ctx context.Context, user string, received ...func(paho.PublishReceived) (bool, error)) *autopaho.ConnectionManager {
	host, port := cmp.Or(os.Getenv("MQTT_HOST"), "127.0.0.1"), cmp.Or(os.Getenv("MQTT_PORT"), "1883")
	login := "MQTT_" + strings.ToUpper(user)
	connection := Must(autopaho.NewConnection(ctx, autopaho.ClientConfig{
		ServerUrls:      []*url.URL{Must(url.Parse("mqtt://" + host + ":" + port))},
		KeepAlive:       30,
		ConnectUsername: cmp.Or(os.Getenv(login+"_USERNAME"), user),
		ConnectPassword: []byte(cmp.Or(os.Getenv(login+"_PASSWORD"), user+"-secret")),
		OnConnectError:  func(err error) { log.Fatal(err) },
		ClientConfig:    paho.ClientConfig{OnPublishReceived: received},
	}))
	Must(0, connection.AwaitConnection(ctx))
	return connection
}
