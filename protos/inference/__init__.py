"""The Open Inference Protocol, version 2, with those of Triton's extensions that are served."""
