"""The console scripts: options to configuration, results to text. One command per module.

Imports click and every other room.
"""
