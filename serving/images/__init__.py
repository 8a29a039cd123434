"""Turns image files into the arrays that a network takes. Server, client and training share this code.

Imports numpy, Pillow, pillow-heif (when a HEIC file comes), `serving.config` and `serving.errors`.
"""
