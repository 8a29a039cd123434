"""Front ends: each listens on a port and hosts the services.

A front end has two methods. `start()` binds the address, begins to listen and returns the address with the port that it
got. `stop(grace_s)` takes no new calls, and ends those that are still in flight after the grace period.

Imports grpc, pygrpc-native, uvicorn, h11, `serving.server.security` and `serving.server.http`.
"""
