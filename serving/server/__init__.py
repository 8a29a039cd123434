"""The server: everything between the network and the core.

Its rooms, from the bottom up: `security`, `telemetry`, `services`, `http`, `fronts`, `process`.
"""
