"""`digits-score`: classifies any number of images, resumably, through servers or in the process.

Imports grpc, protos, numpy, `serving.client` and, only when asked, `serving.inference`, pyarrow and ray.
"""
