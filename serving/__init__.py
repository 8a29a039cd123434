"""Serves trained networks over gRPC on ONNX Runtime, and calls such a server."""
