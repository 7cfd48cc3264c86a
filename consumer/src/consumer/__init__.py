"""Receives readings from MQTT and sends each to echo over HTTP."""
