"""Protobuf messages from tables, in a descriptor pool of their own.

A client library in the same process may register messages of the same names (`tritonclient` has the package `inference`
too), and two descriptions of one name in the default pool are an error. Built at start, they work with any protobuf that is
installed; generated code would ask for the version that generated it.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Message = Any
"""A protobuf message; its fields are known only when it runs."""
_LINE = re.compile(r"(?:(repeated|map|oneof) )?(\w+) (\w+) = (\d+)")
_SCALARS = {
    name: getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in ("bool", "int32", "int64", "uint32", "uint64", "float", "double", "string", "bytes")
}


def messages(
    package: str, tables: Mapping[str, str], enums: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> Mapping[str, Message]:
    """A class for each message of `tables`.

    A table has one field a line, `[repeated|map|oneof] TYPE NAME = NUMBER`: `map` is from text to TYPE, and all `oneof` of a
    message are one choice. Numbers of an enum count from 0.
    """
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, values in enums.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, table in tables.items():
        _describe(file.message_type.add(name=name), table, package, enums)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return MappingProxyType(
        {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in tables}
    )


def _describe(message: Message, table: str, package: str, enums: Mapping[str, Sequence[str]]) -> None:
    for line in table.strip().splitlines():
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise ValueError(f"{message.name}: {line!r} is no field")
        kind, type_name, name, number = found.groups()
        field = message.field.add(
            name=name, number=int(number), label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
        )
        if kind == "map":
            _describe_map(message, field, type_name, package, enums)
            continue
        _describe_type(field, type_name, package, enums)
        if kind == "repeated":
            field.label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
        elif kind == "oneof":
            if not message.oneof_decl:
                message.oneof_decl.add(name="choice")
            field.oneof_index = 0


def _describe_map(
    message: Message, field: Message, type_name: str, package: str, enums: Mapping[str, Sequence[str]]
) -> None:
    # On the wire a map is a repeated entry of key and value.
    entry = message.nested_type.add(name=f"{field.name.title().replace('_', '')}Entry")
    entry.options.map_entry = True
    _describe(entry, f"string key = 1\n{type_name} value = 2", package, enums)
    field.label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    field.type_name = f".{package}.{message.name}.{entry.name}"


def _describe_type(field: Message, type_name: str, package: str, enums: Mapping[str, Sequence[str]]) -> None:
    if type_name in _SCALARS:
        field.type = _SCALARS[type_name]
        return
    enum = type_name in enums
    field.type = (
        descriptor_pb2.FieldDescriptorProto.TYPE_ENUM if enum else descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    )
    field.type_name = f".{package}.{type_name}"
