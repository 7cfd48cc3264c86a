#!/bin/sh
# Starts a node with users from the environment, so that no password is in a process list or in the log.
set -eu
umask 077

state=/tmp/artemis
mkdir -p "$state"
: >"$state/users.properties"
: >"$state/roles.properties"

literal() { # a value for a file of Java properties
    printf '%s' "$1" | sed 's/\\/\\\\/g'
}
user() { # role, name, password
    printf '%s=%s\n' "$(literal "$2")" "$(literal "$3")" >>"$state/users.properties"
    printf '%s=%s\n' "$1" "$(literal "$2")" >>"$state/roles.properties"
}
user producer "$MQTT_PRODUCER_USERNAME" "$MQTT_PRODUCER_PASSWORD"
user consumer "$MQTT_CONSUMER_USERNAME" "$MQTT_CONSUMER_PASSWORD"
user operator "$MQTT_OPERATOR_USERNAME" "$MQTT_OPERATOR_PASSWORD"

# The folder's name has changed between releases of the image.
home=$(find /opt -maxdepth 3 -name artemis-boot.jar | head -n 1)
home=${home%/lib/artemis-boot.jar}
cat >"$state/options" <<OPTIONS
-XX:MaxRAMPercentage=50
-Djava.io.tmpdir=$state
-Djava.security.auth.login.config=/opt/configuration/login.config
-Dartemis.home=$home
-Dartemis.instance=$state
-Dnode=$POD_NAME
-Ddata=/var/lib/artemis-instance/data
-Dmqtt=0.0.0.0:1883
-Dcluster=0.0.0.0:61616
-Dartemis-0=artemis-0.artemis-nodes:61616
-Dartemis-1=artemis-1.artemis-nodes:61616
"-Dcluster-password=$(literal "$ARTEMIS_CLUSTER_PASSWORD")"
-cp "$home/lib/artemis-boot.jar"
OPTIONS
exec java "@$state/options" org.apache.activemq.artemis.boot.Artemis run -- xml:/opt/configuration/bootstrap.xml
