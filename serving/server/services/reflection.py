"""gRPC reflection, which lets tools find the services: `grpc.reflection.v1`, and `v1alpha` for older tools.

grpcio-reflection has only v1alpha. The messages of both are the same on the wire, so its servicer serves both.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

DESCRIPTOR = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
# The names under which it is served.
NAMES = ("grpc.reflection.v1.ServerReflection", DESCRIPTOR.full_name)


def servicer(services: Sequence[str]) -> aio.ReflectionServicer:
    """Makes the servicer.

    Args:
        services: Full names of the other services to describe.
    """
    pool = descriptor_pool.Default()
    try:
        pool.FindServiceByName(NAMES[0])
    except KeyError:
        described = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
        renamed = text_format.MessageToString(described).replace("v1alpha", "v1")
        pool.AddSerializedFile(text_format.Parse(renamed, FileDescriptorProto()).SerializeToString())
    return aio.ReflectionServicer((*services, *NAMES))
