"""HTTP: image files and the Open Inference Protocol, answered by the servicers of gRPC, and a page that uses it.

Imports starlette, `serving.server.services` and what lies below it.
"""
