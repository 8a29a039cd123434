"""`digits-bench`: a load generator, and the ladder from the bare engine to the wire that tells where time goes.

Imports grpc, protos, numpy, `serving.client` and the core; psutil and matplotlib where they are needed.
"""
