"""Converts trained networks to ONNX, proves that the result computes the same, and publishes it."""
