"""Runs one model on ONNX Runtime, and batches concurrent requests for it.

Knows no transport. Imports numpy, onnxruntime (in `engine` only), `serving.config` and `serving.errors`.
"""
