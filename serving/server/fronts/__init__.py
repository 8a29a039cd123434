"""What listens on a port and hosts the services.

Imports grpc, uvicorn, h11, `serving.server.security` and `serving.server.http`.
"""
