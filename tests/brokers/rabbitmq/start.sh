#!/bin/sh
set -eu
echo '[rabbitmq_mqtt].' >@FOLDER@/plugins
export HOME=@FOLDER@
export RABBITMQ_NODENAME=broker@localhost
export RABBITMQ_CONFIG_FILE=@FOLDER@/rabbitmq.conf
export RABBITMQ_ENABLED_PLUGINS_FILE=@FOLDER@/plugins
export RABBITMQ_MNESIA_BASE=@FOLDER@/data
export RABBITMQ_LOGS=-
export ERL_EPMD_PORT=@EPMD_PORT@
export RABBITMQ_DIST_PORT=@ERLANG_PORT@
# Started by the server, it would outlive it.
epmd -port @EPMD_PORT@ &
exec /usr/lib/rabbitmq/bin/rabbitmq-server
