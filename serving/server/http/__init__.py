"""The Open Inference Protocol over HTTP: JSON in place of gRPC messages, answered by the same servicer.

Imports starlette, `serving.server.services` and what lies below it.
"""
