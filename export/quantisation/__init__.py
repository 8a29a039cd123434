"""int8 from float32: which layers are quantised, by which scales, and what makes up for the rounding.

Works on the exported ONNX graph, without Keras. Imports onnx, numpy and the engine.
"""
