"""Imports networks that were made elsewhere: opens them, finds what they take and give, wraps them to our contract.

Imports the rest of `export`, `training`'s data sets, and serving's core. Never grpc.
"""
