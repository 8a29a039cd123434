"""`digits-bench`: a load generator, and scenarios that compare each layer of the server with the ones below it.

Imports grpc, protos, numpy, `serving.client` and the core; psutil and matplotlib only in the modules that need them.
"""
