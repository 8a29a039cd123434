"""Converts trained networks to ONNX and proves that they compute the same thing."""
