"""Formats: bytes to values and back, pure. One envelope (Kafka's v2 batch header), two payloads."""
