"""Turns image files into the arrays that a network takes. Server, client and training share this code.

Imports numpy, Pillow, `serving.config` and `serving.errors`.
"""
