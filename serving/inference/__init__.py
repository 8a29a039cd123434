"""One model on ONNX Runtime, and the batcher that lets concurrent requests share its batches.

Knows no transport. Imports numpy, onnxruntime (in `engine` only), `serving.config` and `serving.errors`.
"""
