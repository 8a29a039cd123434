"""Python clients for a server. Installing them does not install ONNX Runtime.

Imports grpc, protos, numpy and `serving.images`.
"""

from serving.client.async_client import AsyncClient
from serving.client.base_client import Place
from serving.client.call_errors import CallFailed
from serving.client.classification import Classification
from serving.client.client import Client
from serving.client.credentials import Credentials
from serving.images.image_status import ImageStatus

__all__ = ["AsyncClient", "CallFailed", "Classification", "Client", "Credentials", "ImageStatus", "Place"]
