"""Which versions answer which calls, and how that changes while calls are answered.

Knows no transport. Imports numpy, `serving.images`, `serving.inference` and `serving.repository`.
"""
