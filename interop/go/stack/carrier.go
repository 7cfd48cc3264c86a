package stack

import (
	"slices"
	"strings"

	"github.com/eclipse/paho.golang/paho"
	"go.opentelemetry.io/otel/propagation"
)

// Carrier lets the propagator read the user properties; in paho's list of pairs a name can occur several times.
func Carrier(properties paho.UserProperties) propagation.MapCarrier {
	carrier := propagation.MapCarrier{}
	// Equal values count as one; different values contradict each other, and none can be trusted.
	if values := slices.Compact(properties.GetAll("traceparent")); len(values) == 1 {
		carrier["traceparent"] = values[0]
	}
	for _, list := range []string{"tracestate", "baggage"} {
		carrier[list] = strings.Join(properties.GetAll(list), ",")
	}
	return carrier
}
