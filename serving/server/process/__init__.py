"""Runs one serving process from start to shutdown, and supervises several of them as workers.

Imports uvloop and every room below it; grpc only through them.
"""
