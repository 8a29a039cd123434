"""Serves trained networks over gRPC on ONNX Runtime, and calls such a server."""

__version__ = "0.4.0"
