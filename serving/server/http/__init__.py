"""The Open Inference Protocol over HTTP: the same services as over gRPC, with JSON in place of messages.

Imports starlette, `serving.server.services` and what lies below it.
"""
