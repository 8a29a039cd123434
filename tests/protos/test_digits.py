"""The interface can be compiled by anybody, and reads and writes what clients of older copies do."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import DESCRIPTOR as ANY
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2, status_pb2

from protos.digits.v1 import digits_pb2


def test_it_imports_only_what_every_compiler_brings_along() -> None:
    content = FileDescriptorProto.FromString(digits_pb2.DESCRIPTOR.serialized_pb)
    assert list(content.dependency) == ["google/protobuf/any.proto"]
    pool = DescriptorPool()  # without what this process has imported
    pool.AddSerializedFile(ANY.serialized_pb)
    pool.AddSerializedFile(digits_pb2.DESCRIPTOR.serialized_pb)
    assert pool.FindServiceByName("digits.v1.DigitClassifierService")


@pytest.mark.parametrize(
    ("written", "read"),
    [(digits_pb2.Status, status_pb2.Status), (status_pb2.Status, digits_pb2.Status)],
    ids=["as google.rpc.Status", "from google.rpc.Status"],
)
def test_a_status_is_read_as_the_other(written: type, read: type) -> None:
    status = written(code=3, message="é: wrong")
    detail = error_details_pb2.BadRequest(field_violations=[{"field": "images[3]", "description": "wrong"}])
    status.details.add().Pack(detail)
    found = read.FromString(status.SerializeToString())
    assert (found.code, found.message) == (3, "é: wrong")
    unpacked = error_details_pb2.BadRequest()
    assert found.details[0].Unpack(unpacked)
    assert unpacked == detail
