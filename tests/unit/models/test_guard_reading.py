"""The guard reads ONNX files itself. That it reads all that onnx's own parser can: the same fields, and the same tensors."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from cocoon_p2p.models import graph_fields
from cocoon_p2p.models.graph_tensors import ExternalFiles
from cocoon_p2p.models.guard import ModelRefused, guard_graph
from cocoon_p2p.testing import hostile_models as hostile
from cocoon_p2p.testing import models

TABLES = {
    "ModelProto": graph_fields.MODEL,
    "OperatorSetIdProto": graph_fields.OPERATOR_SET,
    "GraphProto": graph_fields.GRAPH,
    "NodeProto": graph_fields.NODE,
    "AttributeProto": graph_fields.ATTRIBUTE,
    "TensorProto": graph_fields.TENSOR,
    "StringStringEntryProto": graph_fields.ENTRY,
    "FunctionProto": graph_fields.FUNCTION,
}
WIRE = {
    FieldDescriptor.TYPE_FLOAT: graph_fields.FIXED32,
    FieldDescriptor.TYPE_DOUBLE: graph_fields.FIXED64,
    FieldDescriptor.TYPE_INT32: graph_fields.VARINT,
    FieldDescriptor.TYPE_INT64: graph_fields.VARINT,
    FieldDescriptor.TYPE_UINT64: graph_fields.VARINT,
    FieldDescriptor.TYPE_ENUM: graph_fields.VARINT,
    FieldDescriptor.TYPE_STRING: graph_fields.BYTES,
    FieldDescriptor.TYPE_BYTES: graph_fields.BYTES,
    FieldDescriptor.TYPE_MESSAGE: graph_fields.BYTES,
}


def reachable(descriptor: Descriptor, found: dict[str, Descriptor]) -> dict[str, Descriptor]:
    if descriptor.name not in found:
        found[descriptor.name] = descriptor
        for field in descriptor.fields:
            if field.message_type is not None:
                reachable(field.message_type, found)
    return found


def test_the_fields_are_those_of_onnx() -> None:
    found = reachable(onnx.ModelProto.DESCRIPTOR, {})
    for name, table in TABLES.items():
        wires: dict[int, tuple[int, ...]] = {}
        for field in found[name].fields:
            wire = WIRE[field.type]
            packable = field.is_repeated and wire != graph_fields.BYTES
            wires[field.number] = (wire, graph_fields.BYTES) if packable else (wire,)
        assert table.wires == wires, name
        assert table.single == {field.number for field in found[name].fields if not field.is_repeated}, name


def test_what_is_not_looked_into_holds_no_tensors_and_no_graphs() -> None:
    """Types, names, annotations, device settings; sparse tensors and training are refused before anybody looks into them."""
    refused = {"SparseTensorProto", "TrainingInfoProto"}
    for name, descriptor in reachable(onnx.ModelProto.DESCRIPTOR, {}).items():
        if name not in TABLES and name not in refused:
            inner = reachable(descriptor, {}).keys() - {name}
            assert not inner & {"TensorProto", "GraphProto", "NodeProto", "FunctionProto", "AttributeProto"}, name


class Noting(ExternalFiles):
    def __init__(self) -> None:
        super().__init__({})
        self.seen: list[str] = []

    def take(self, entries: Any, wanted: int) -> None:
        self.seen += [entries["location"]] if "location" in entries else []


def locations(message: Message) -> Iterator[str]:
    """Of all tensors in the parsed model, by onnx's own parser."""
    if isinstance(message, onnx.TensorProto):
        for entry in message.external_data:
            if entry.key == "location":
                yield entry.value
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in value if field.is_repeated else [value]:
                yield from locations(each)


def test_altered_bytes_never_hide_anything_from_the_guard(tmp_path: Path) -> None:
    """Whatever passes, onnx reads too, and finds no data that the guard did not see."""
    rng = random.Random(7)
    tensor = hostile.external("weights.bin")
    originals = [
        model.SerializeToString()
        for model in (
            hostile.reads(tensor),
            hostile.reads_in_branch(tensor),
            hostile.reads_in_function(tensor),
            hostile.endless_loop(),
            hostile.multiplying_functions(2, 3),
        )
    ]
    originals.append(models.half_model(tmp_path).read_bytes())
    passed = 0
    for _ in range(20_000):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[place] ^= 1 << rng.randrange(8)
                case 1:
                    data[place] = rng.randrange(256)
                case 2:
                    del data[place : place + rng.randint(1, 4)]
                case _:
                    data[place:place] = data[rng.randrange(len(data)) :][: rng.randint(1, 12)]
            data = data or bytearray(b"x")
        noting = Noting()
        try:
            guard_graph(bytes(data), noting)
        except ModelRefused:
            continue
        passed += 1
        model = onnx.ModelProto()
        try:
            model.ParseFromString(bytes(data))
        except DecodeError:
            continue  # within what the guard does not look into
        assert sorted(locations(model)) == sorted(noting.seen)
    assert passed > 1000
