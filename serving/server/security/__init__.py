"""Who may call, and over what: tokens, certificates, and the limit on concurrent calls.

Imports the standard library, `serving.config` and `serving.errors`.
"""
