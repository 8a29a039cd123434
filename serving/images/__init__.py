"""Image files to the arrays that a network takes, by the same code in server, client and training.

Imports numpy, Pillow, `serving.config` and `serving.errors`.
"""
