"""Compares another client's stubs with our interface: python stubs.py DESCRIPTORS MODULE…

DESCRIPTORS is a FileDescriptorSet of our files, since our stubs can't be imported with theirs. Everything in it
must be in one of their modules with the same names, numbers, types and methods. Their modules may contain more.
"""

import importlib
import sys
from pathlib import Path

from google.protobuf import descriptor_pb2


def fields_of(message: descriptor_pb2.DescriptorProto) -> dict:
    return {
        field.name: (field.number, field.type, field.label, field.type_name, field.HasField("oneof_index"))
        for field in message.field
    }


def compare(ours: descriptor_pb2.DescriptorProto, theirs: descriptor_pb2.DescriptorProto) -> int:
    missing = set(fields_of(ours).items()) - set(fields_of(theirs).items())
    assert not missing, (ours.name, missing)
    nested = {message.name: message for message in theirs.nested_type}
    enums = {enum.name: enum for enum in theirs.enum_type}
    for enum in ours.enum_type:
        assert enum == enums[enum.name], enum.name
    return len(ours.field) + sum(compare(message, nested[message.name]) for message in ours.nested_type)


def main(descriptors: str, *modules: str) -> None:
    ours = descriptor_pb2.FileDescriptorSet.FromString(Path(descriptors).read_bytes())
    messages, enums, methods = {}, {}, {}
    for module in modules:
        theirs = descriptor_pb2.FileDescriptorProto.FromString(importlib.import_module(module).DESCRIPTOR.serialized_pb)
        messages |= {message.name: message for message in theirs.message_type}
        enums |= {enum.name: enum for enum in theirs.enum_type}
        methods |= {method.name: method for service in theirs.service for method in service.method}
    compared = 0
    for file in ours.file:
        assert file.package == "inference"
        for message in file.message_type:
            compared += compare(message, messages[message.name])
        for enum in file.enum_type:
            assert enum == enums[enum.name], enum.name
        for service in file.service:
            for method in service.method:
                method.ClearField("options")
                methods[method.name].ClearField("options")
                assert method == methods[method.name], method.name
    print(f"{compared} fields agree")


main(*sys.argv[1:])
