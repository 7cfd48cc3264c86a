#!/bin/sh
# Starts the Collector with config.yaml and the overlays that are asked for: the Collector merges what it is given.
set -eu

config=$(CDPATH='' cd "$(dirname "$0")" && pwd)
set -- --config "$config/config.yaml"
if [ -n "${TAIL_SAMPLING_PERCENTAGE:-}" ]; then
    set -- "$@" --config "$config/tail-sampling.yaml"
fi
for backend in $(echo "${BACKENDS:-}" | tr ',' ' '); do
    # Grafana shows what the others hold, so what it needs of the Collector is metrics for Prometheus.
    [ "$backend" != grafana ] || backend=prometheus
    set -- "$@" --config "$config/backends/$backend.yaml"
done
extensions=oauth2client,health_check
receivers=otlp
for extra in $(echo "${COLLECTOR_EXTRAS:-}" | tr ',' ' '); do
    case $extra in
    zipkin) receivers=$receivers,$extra ;;
    *) extensions=$extensions,$extra ;;
    esac
done
export COLLECTOR_EXTENSIONS="[$extensions]" COLLECTOR_TRACE_RECEIVERS="[$receivers]"
exec "${OTELCOL:-/otelcol-contrib}" "$@"
