package stack

import (
	"slices"
	"strings"

	"github.com/eclipse/paho.golang/paho"
	"go.opentelemetry.io/otel/propagation"
)

// Carrier gives the propagator what it reads: in paho's list of pairs a name may be there several times.
func Carrier(properties paho.UserProperties) propagation.MapCarrier {
	carrier := propagation.MapCarrier{}
	// Equal ones are one; others contradict each other, and none can be trusted.
	if values := slices.Compact(properties.GetAll("traceparent")); len(values) == 1 {
		carrier["traceparent"] = values[0]
	}
	for _, list := range []string{"tracestate", "baggage"} {
		carrier[list] = strings.Join(properties.GetAll(list), ",")
	}
	return carrier
}
