"""A fleet of simulated sensors that publishes readings over MQTT 5."""
