"""The console scripts: options to configuration, results to text. One command per module.

Imports click, cloup and the rooms below, except the services and HTTP, which the server's process composes.
"""
