#!/bin/sh
# Starts Mosquitto with users and ports from the environment. The passwords are hashed here, at each start: they are
# in no image and in no process list.
set -eu
umask 077

config=$(CDPATH='' cd "$(dirname "$0")" && pwd)
state=${MOSQUITTO_STATE:?} # generated configuration
data=${MOSQUITTO_DATA:?}   # what the broker keeps

for password in "$MQTT_PRODUCER_PASSWORD" "$MQTT_CONSUMER_PASSWORD" "$MQTT_OPERATOR_PASSWORD"; do
    case $password in
    *:*) echo 'A password of MQTT_*_PASSWORD has a colon, which would cut it off; choose another.' >&2 && exit 2 ;;
    esac
done

mkdir -p "$state" "$data"

fill() { # copies $1 to $2 with the values put in
    sed -e "s|@MQTT_PORT@|${MQTT_PORT:-1883}|g" \
        -e "s|@MQTT_BIND@|${MQTT_BIND:-127.0.0.1}|g" \
        -e "s|@MQTT_PRODUCER_USERNAME@|$MQTT_PRODUCER_USERNAME|g" \
        -e "s|@MQTT_CONSUMER_USERNAME@|$MQTT_CONSUMER_USERNAME|g" \
        -e "s|@MQTT_OPERATOR_USERNAME@|$MQTT_OPERATOR_USERNAME|g" \
        -e "s|@USER@|$(id -un)|g" \
        -e "s|@STATE@|$state|g" -e "s|@DATA@|$data|g" "$1" >"$2"
}
fill "$config/mosquitto.conf" "$state/mosquitto.conf"
fill "$config/acl" "$state/acl"

printf '%s:%s\n' "$MQTT_PRODUCER_USERNAME" "$MQTT_PRODUCER_PASSWORD" \
    "$MQTT_CONSUMER_USERNAME" "$MQTT_CONSUMER_PASSWORD" \
    "$MQTT_OPERATOR_USERNAME" "$MQTT_OPERATOR_PASSWORD" >"$state/passwords"
mosquitto_passwd -U "$state/passwords"

# Options at the end of the file are of the listener, which then takes nothing but TLS.
if [ "${MQTT_TLS:-0}" = 1 ]; then
    printf 'certfile %s\nkeyfile %s\n' "$MQTT_CERTIFICATES/server.crt" "$MQTT_CERTIFICATES/server.key" \
        >>"$state/mosquitto.conf"
fi

# What the health check logs in with (mosquitto_sub reads it from $XDG_CONFIG_HOME).
printf -- '-p %s\n-u %s\n-P %s\n' "${MQTT_PORT:-1883}" "$MQTT_OPERATOR_USERNAME" "$MQTT_OPERATOR_PASSWORD" \
    >"$state/mosquitto_sub"
if [ "${MQTT_TLS:-0}" = 1 ]; then
    printf -- '--cafile %s\n' "$MQTT_CERTIFICATES/ca.crt" >>"$state/mosquitto_sub"
fi

unset MQTT_PRODUCER_PASSWORD MQTT_CONSUMER_PASSWORD MQTT_OPERATOR_PASSWORD
exec mosquitto -c "$state/mosquitto.conf"
