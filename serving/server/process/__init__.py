"""One serving process from start to end, and the supervisor of several.

Imports grpc, uvloop and every room below it.
"""
