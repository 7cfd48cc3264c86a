#!/bin/sh
set -eu
mosquitto_passwd -c -b @FOLDER@/passwords @USER@ @PASSWORD@
exec mosquitto -c @FOLDER@/mosquitto.conf
