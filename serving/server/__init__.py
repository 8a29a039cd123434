"""The server: everything between the network and the core. Each of its rooms says its purpose and its imports.

From the ground up: `security`, `telemetry`, `services`, `http`, `fronts`, `process`.
"""
