"""Metrics, logs and traces.

Imports prometheus_client, python-json-logger, OpenTelemetry and the core.
"""
