"""Trains the networks that `export` converts and `serving` serves."""
