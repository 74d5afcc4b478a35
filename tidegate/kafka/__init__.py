"""The agent's end of the Kafka filter in Envoy: what it reports, and questions about Kafka requests."""
