"""`digits-score`: classifies any number of images, resumably, through servers or in this process.

Imports grpc, protos, numpy, `serving.client` and, only if they are used, `serving.inference`, `serving.repository`,
pyarrow and ray.
"""

from serving.score.batch_classifier import BatchClassifier

__all__ = ["BatchClassifier"]
