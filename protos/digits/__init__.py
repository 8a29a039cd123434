"""The interface of digits-serving."""
