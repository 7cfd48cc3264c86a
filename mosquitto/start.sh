#!/bin/sh
# Starts Mosquitto with users and ports from the environment. It hashes the passwords at each start, so that they are
# in no image and in no process list.
set -eu
umask 077

config=$(CDPATH='' cd "$(dirname "$0")" && pwd)
state=${MOSQUITTO_STATE:?} # generated configuration
data=${MOSQUITTO_DATA:?}   # what the broker keeps

mkdir -p "$state" "$data"

# The folder depends on the distribution.
plugin=$(find "$(dirname "$(command -v mosquitto)")/../lib" /usr/lib /usr/local/lib -maxdepth 2 \
    -name mosquitto_dynamic_security.so 2>/dev/null | head -n 1)
[ -n "$plugin" ] || { echo "Mosquitto's plugin mosquitto_dynamic_security.so is not there." >&2 && exit 2; }

retain=false
[ "${MQTT_RETAIN:-0}" = 1 ] && retain=true

fill() { # copies $1 to $2 with the values filled in
    sed -e "s|@MQTT_PORT@|${MQTT_PORT:-1883}|g" \
        -e "s|@MQTT_BIND@|${MQTT_BIND:-127.0.0.1}|g" \
        -e "s|@MQTT_DEVICE_PORT@|${MQTT_DEVICE_PORT:-8883}|g" \
        -e "s|@MQTT_CERTIFICATES@|${MQTT_CERTIFICATES:-}|g" \
        -e "s|@MQTT_MAX_CONNECTIONS@|${MQTT_MAX_CONNECTIONS:-1000}|g" \
        -e "s|@MQTT_MAX_QUEUED_BYTES@|${MQTT_MAX_QUEUED_BYTES:-67108864}|g" \
        -e "s|@MAX_PACKET_SIZE@|$((${MQTT_MAX_PACKET_SIZE:-65536} - 3))|g" \
        -e "s|@RETAIN_AVAILABLE@|$retain|g" \
        -e "s|@USER@|$(id -un)|g" -e "s|@PLUGIN@|$plugin|g" \
        -e "s|@STATE@|$state|g" -e "s|@DATA@|$data|g" "$1" >"$2"
}
fill "$config/mosquitto.conf" "$state/mosquitto.conf"

# The ACL lists the users; the environment has the name and the password of each.
cp "$config/acl" "$state/acl"
: >"$state/passwords"
users=$(sed -n 's/^user @\(.*\)_USERNAME@$/\1/p' "$config/acl" | sort -u)
for user in $users; do
    eval "username=\${${user}_USERNAME:?} password=\${${user}_PASSWORD:?}"
    case $username in
    *[!A-Za-z0-9_.-]*) echo "${user}_USERNAME is '$username'; it must be letters, digits, _ . or -" >&2 && exit 2 ;;
    esac
    case $password in
    *:*) echo "${user}_PASSWORD has a colon, which would cut it off; choose another." >&2 && exit 2 ;;
    esac
    sed "s|@${user}_USERNAME@|$username|g" "$state/acl" >"$state/acl.filled"
    mv "$state/acl.filled" "$state/acl"
    printf '%s:%s\n' "$username" "$password" >>"$state/passwords"
done
# The plugin reads only this hash.
mosquitto_passwd -H sha512-pbkdf2 -U "$state/passwords"
awk -v certificates="${MQTT_CLIENT_CERTIFICATES:-0}" -v devices="${MQTT_DEVICE_NAMES:-}" \
    -f "$config/dynamic-security.awk" "$state/passwords" "$state/acl" >"$state/dynamic-security.json"
rm "$state/passwords" "$state/acl"

# Options at the end of the file belong to the listener, which then accepts only TLS.
if [ "${MQTT_TLS:-0}" = 1 ]; then
    printf 'certfile %s\nkeyfile %s\n' "$MQTT_CERTIFICATES/server.crt" "$MQTT_CERTIFICATES/server.key" \
        >>"$state/mosquitto.conf"
fi
if [ "${MQTT_CLIENT_CERTIFICATES:-0}" = 1 ]; then
    [ "${MQTT_TLS:-0}" = 1 ] || { echo "MQTT_CLIENT_CERTIFICATES is 1, which needs MQTT_TLS=1." >&2 && exit 2; }
    fill "$config/devices.conf" "$state/devices.conf"
    cat "$state/devices.conf" >>"$state/mosquitto.conf"
fi

# The login of the health check (mosquitto_rr reads this file from $XDG_CONFIG_HOME).
printf -- '-V mqttv5\n-p %s\n-u %s\n-P %s\n' "${MQTT_PORT:-1883}" "$MQTT_OPERATOR_USERNAME" "$MQTT_OPERATOR_PASSWORD" \
    >"$state/mosquitto_rr"
if [ "${MQTT_TLS:-0}" = 1 ]; then
    printf -- '--cafile %s\n' "$MQTT_CERTIFICATES/ca.crt" >>"$state/mosquitto_rr"
fi

for user in $users; do unset "${user}_PASSWORD"; done
exec mosquitto -c "$state/mosquitto.conf"
