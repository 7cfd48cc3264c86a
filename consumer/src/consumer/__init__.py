"""Processes readings from MQTT and hands each to echo over HTTP."""
