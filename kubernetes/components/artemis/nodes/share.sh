#!/bin/bash
# Creates the queue of the consumers' share in this node, as the startup probe: PORT of this node, 1883 if not given.
# A node without it that knows no other node acknowledges readings and drops them. The script subscribes like a
# consumer, with MQTT 3.1.1, and disconnects: the session and its queue stay.
set -eu
# Counts bytes, not characters.
export LC_ALL=C
filter='$share/consumers/sensors/+/reading'
name="share-${POD_NAME:-node}"

byte() { printf "\\x$(printf %x "$1")"; }
text() { byte $((${#1} / 256)); byte $((${#1} % 256)); printf %s "$1"; }
length() { if [ "$1" -lt 128 ]; then byte "$1"; else byte $(($1 % 128 + 128)); byte $(($1 / 128)); fi; }

exec 3<>"/dev/tcp/127.0.0.1/${1:-1883}"
{
    # CONNECT: protocol level 4, with a user and a password, without a clean session; keep-alive 30 s.
    printf '\x10'
    length $((16 + ${#name} + ${#MQTT_CONSUMER_USERNAME} + ${#MQTT_CONSUMER_PASSWORD}))
    printf '\0\4MQTT\4\xc0\0\x1e'
    text "$name"
    text "$MQTT_CONSUMER_USERNAME"
    text "$MQTT_CONSUMER_PASSWORD"
    # SUBSCRIBE: packet 1, QoS 1.
    printf '\x82'
    length $((5 + ${#filter}))
    printf '\0\1'
    text "$filter"
    printf '\1'
    # DISCONNECT
    printf '\xe0\0'
} >&3
# SUBACK: packet 1 is granted QoS 1.
timeout 10 cat <&3 | od -An -v -tx1 | tr -d ' \n' | grep -q 9003000101
