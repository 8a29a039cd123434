"""Models on disk: versions, manifests and labels, and how they are published, verified and removed.

It knows no transport. Imports numpy, cryptography (in `signature`) and `serving.inference` (to verify a version).
"""
