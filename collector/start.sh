#!/bin/sh
# Starts the Collector with config.yaml and the overlays that the environment asks for; the Collector merges them.
set -eu

config=$(CDPATH='' cd "$(dirname "$0")" && pwd)
set -- --config "$config/config.yaml"
if [ -n "${TAIL_SAMPLING_PERCENTAGE:-}" ]; then
    set -- "$@" --config "$config/tail-sampling.yaml"
fi
for backend in $(echo "${BACKENDS:-}" | tr ',' ' '); do
    # Grafana only queries the other backends, so it needs Prometheus' metrics from the Collector.
    [ "$backend" != grafana ] || backend=prometheus
    set -- "$@" --config "$config/backends/$backend.yaml"
done
extensions=oauth2client,health_check,file_storage
receivers=otlp
for extra in $(echo "${COLLECTOR_EXTRAS:-}" | tr ',' ' '); do
    case $extra in
    zipkin) receivers=$receivers,$extra ;;
    *) extensions=$extensions,$extra ;;
    esac
done
export COLLECTOR_EXTENSIONS="[$extensions]" COLLECTOR_TRACE_RECEIVERS="[$receivers]"
exec "${OTELCOL:-/otelcol-contrib}" "$@"
