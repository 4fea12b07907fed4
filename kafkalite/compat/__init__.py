"""Faces of other Kafka libraries over a store: code written for them runs with one import changed."""
