"""Which version answers which call, and how versions are loaded, made current and unloaded under traffic.

It knows no transport. Imports numpy, `serving.images`, `serving.inference` and `serving.repository`.
"""
