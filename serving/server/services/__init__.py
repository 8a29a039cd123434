"""The gRPC services: decode, delegate to the core, encode; and the one table from errors to status codes.

Imports grpc, protos, the core, `serving.server.security` and `serving.server.telemetry`.
"""
