"""The guard: what it refuses, each of it something that ONNX Runtime would have taken, and what it must let through."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from cocoon_p2p.limits import GRAPH_NESTING_MAX, GRAPH_NODES_MAX
from cocoon_p2p.models.graph_tensors import ExternalFiles
from cocoon_p2p.models.guard import ModelRefused, guard_graph, guard_model
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry
from cocoon_p2p.testing import hostile_models as hostile
from cocoon_p2p.testing import models
from cocoon_p2p.testing.tiny_genai import make_tiny_genai

HARMLESS: tuple[Callable[[Path], Path], ...] = (
    models.matmul_model,
    models.two_in_two_out_model,
    models.half_model,
    models.four_bit_model,
    models.failing_model,
    models.slow_model,
    models.kernel_model,
)


def refusal(model: ModelProto | bytes, files: dict[str, int] | None = None) -> tuple[str, str]:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(ModelRefused) as caught:
        guard_graph(data, ExternalFiles(files or {}))
    return caught.value.code, caught.value.what


def passes(model: ModelProto | bytes, files: dict[str, int] | None = None) -> frozenset[str]:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return guard_graph(data, ExternalFiles(files or {}))


def installed(folder: Path, path: Path) -> InstalledModel:
    return ModelRegistry(folder / "home", inspect=inspect_onnx).add(path)


@pytest.mark.parametrize("make", HARMLESS)
def test_models_that_do_no_harm_pass(make: Callable[[Path], Path], tmp_path: Path) -> None:
    assert passes(make(tmp_path).read_bytes()) == frozenset()


def test_graphs_of_language_models_pass_which_the_checker_refuses(tmp_path: Path) -> None:
    path = make_tiny_genai(tmp_path / "genai") / "model.onnx"
    assert passes(path.read_bytes()) == frozenset()
    fused = helper.make_node("GroupQueryAttention", ["x", "", "", "", ""], ["y"], domain="com.microsoft", num_heads=4)
    model = hostile.model_of([fused], domains=["com.microsoft", "org.pytorch.aten", "com.ms.internal.nhwc"])
    assert passes(model) == frozenset()


# --- reading what is not theirs ---


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../secret", "secret", "sub/../../secret", "./w.bin", "", "w.bin\0", "W.BIN", "model.onnx",
     "*/_ORT_MEM_ADDR_/*"],
)  # fmt: skip
@pytest.mark.parametrize(
    "place",
    [hostile.reads, hostile.reads_in_constant, hostile.reads_in_branch, hostile.reads_in_function],
)
def test_data_from_files_that_are_not_the_models(location: str, place: Callable[[TensorProto], ModelProto]) -> None:
    code, what = refusal(place(hostile.external(location)), {"w.bin": 16})
    assert code == "EXTERNAL"
    assert "none of its files" in what
    assert passes(place(hostile.external("w.bin")), {"w.bin": 16}) == {"w.bin"}


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ({"offset": 4}, "beyond the end"),
        ({"length": 20}, "beyond the end"),
        ({"offset": 10**17, "length": 16}, "beyond the end"),
        ({"length": 4}, "beyond the end"),
        ({"offset": -4}, "no number"),
        ({"offset": "4\n"}, "no number"),
        ({"offset": "٤"}, "no number"),
        ({"offset": "9" * 30}, "no number"),
        ({"prepacked_0": "w|0;16"}, "not known here"),
    ],
)
def test_data_beyond_the_end_of_its_file(entries: dict[str, object], what: str) -> None:
    code, found = refusal(hostile.reads(hostile.external("w.bin", **entries)), {"w.bin": 16})
    assert (code, what in found) == ("EXTERNAL", True), found


def test_data_that_is_used_over_and_over() -> None:
    def twice(count: int) -> ModelProto:
        tensors = [hostile.external("w.bin") for _ in range(count)]
        for number, tensor in enumerate(tensors):
            tensor.name = f"w{number}"
        return hostile.model_of([helper.make_node("Add", ["x", "w0"], ["y"])], constants=tensors)

    assert passes(twice(4), {"w.bin": 16}) == {"w.bin"}
    assert refusal(twice(5), {"w.bin": 16})[0] == "EXTERNAL"


def test_data_in_two_places_or_in_none() -> None:
    both = hostile.external("w.bin")
    both.raw_data = bytes(16)
    assert "two places" in refusal(hostile.reads(both), {"w.bin": 16})[1]
    unmarked = hostile.external("w.bin")
    unmarked.data_location = TensorProto.DEFAULT
    assert "not said" in refusal(hostile.reads(unmarked), {"w.bin": 16})[1]
    nowhere = hostile.external("w.bin")
    del nowhere.external_data[:]
    assert "not said" in refusal(hostile.reads(nowhere), {"w.bin": 16})[1]
    twice = hostile.external("w.bin")
    twice.external_data.add(key="location", value="/etc/passwd")
    assert "said twice" in refusal(hostile.reads(twice), {"w.bin": 16})[1]
    assert "sparse" in refusal(hostile.reads_sparse(hostile.external("w.bin")), {"w.bin": 16})[1]


def test_files_that_are_links(tmp_path: Path) -> None:
    source = tmp_path / "source"
    hostile.write(source, hostile.reads(hostile.external("w.bin")))
    (source / "w.bin").write_bytes(bytes(16))
    model = installed(tmp_path, source)
    guard_model(model.manifest, model.folder)
    secret = tmp_path / "secret"
    secret.write_bytes(b"sixteen secrets.")
    for link in (os.symlink, os.link):
        (model.folder / "w.bin").unlink()
        link(secret, model.folder / "w.bin")
        with pytest.raises(OSError, match="link"):
            guard_model(model.manifest, model.folder)
    (model.folder / "w.bin").unlink()
    (model.folder / "w.bin").write_bytes(bytes(15))
    with pytest.raises(ModelRefused, match="another size"):
        guard_model(model.manifest, model.folder)


# --- running what is not theirs ---


@pytest.mark.parametrize(
    ("name", "domain"),
    [("Evil", "evil.example"), ("ATen", "org.pytorch.aten"), ("Conv", "com.microsoft.nchwc"), ("SGD", "ai.onnx.training"),
     ("EPContext", "com.microsoft"), ("Snpe", "com.microsoft"), ("PyOp", "com.microsoft"), ("PyOp", "")],
)  # fmt: skip
def test_operators_that_are_not_known(name: str, domain: str) -> None:
    code, what = refusal(hostile.operator(name, domain))
    assert code == "OPERATOR"
    assert name in what


def test_operators_hidden_in_functions() -> None:
    def within(domain: str, *body: onnx.NodeProto) -> ModelProto:
        function = helper.make_function(domain, "F", ["a"], ["b"], list(body), [helper.make_opsetid("", 21)])
        return hostile.model_of(
            [helper.make_node("F", ["x"], ["y"], domain=domain)], functions=[function], domains=[domain]
        )

    assert passes(within("own", helper.make_node("Relu", ["a"], ["b"]))) == frozenset()
    assert refusal(within("own", helper.make_node("Evil", ["a"], ["b"], domain="evil")))[0] == "OPERATOR"
    for domain in ("", "ai.onnx", "com.microsoft", "com.ms.internal.nhwc"):
        assert "redefines" in refusal(within(domain, helper.make_node("Relu", ["a"], ["b"])))[1]
    twice = within("own", helper.make_node("Relu", ["a"], ["b"]))
    twice.functions.append(twice.functions[0])
    assert "twice" in refusal(twice)[1]
    assert "circle" in refusal(hostile.circular_functions())[1]


def test_a_pickle_and_other_formats() -> None:
    assert refusal(hostile.python_operator())[0] == "OPERATOR"
    assert "own format" in refusal(hostile.ort_flatbuffer())[1]
    assert refusal(b"\x80\x04\x95cos\nsystem\n")[0] == "FORMAT"
    assert refusal(b"PK\x03\x04" + bytes(100))[0] == "FORMAT"
    assert refusal(b"")[0] == "FORMAT"
    assert refusal(hostile.with_training())[0] == "FORMAT"


# --- taking time and memory ---


def test_models_that_grow() -> None:
    assert passes(hostile.many_nodes(1000)) == frozenset()
    assert refusal(hostile.many_nodes(GRAPH_NODES_MAX + 1))[0] == "SIZE"
    assert passes(hostile.multiplying_functions(4)) == frozenset()
    assert refusal(hostile.multiplying_functions(12))[0] == "SIZE"
    assert refusal(hostile.multiplying_functions(GRAPH_NESTING_MAX + 2, times=1))[0] == "OPERATOR"
    assert passes(hostile.nested(GRAPH_NESTING_MAX)) == frozenset()
    assert refusal(hostile.nested(GRAPH_NESTING_MAX + 1))[0] == "SIZE"


def test_tensors_made_of_nothing() -> None:
    for operator in ("ConstantOfShape", "Expand"):
        assert passes(hostile.constant_allocation(10**6, operator)) == frozenset()
        assert refusal(hostile.constant_allocation(2**40, operator))[0] == "TENSOR"
    size = numpy_helper.from_array(np.array([2**20, 2**20], np.int64), "s")
    nodes = [
        helper.make_node("Constant", [], ["s"], value=size),
        helper.make_node("ConstantOfShape", ["s"], ["z"]),
        helper.make_node("Add", ["x", "z"], ["y"]),
    ]
    assert refusal(hostile.model_of(nodes))[0] == "TENSOR"
    listed = helper.make_tensor("s", TensorProto.INT64, [2], [2**20, 2**20])
    assert refusal(hostile.model_of(nodes[1:], constants=[listed]))[0] == "TENSOR"
    assert "has but" in refusal(hostile.empty_constant(2**40))[1]
    assert "negative" in refusal(hostile.empty_constant(-1))[1]
    assert passes(hostile.empty_constant(0)) == frozenset()
    strange = TensorProto(name="w", data_type=99, dims=[1], raw_data=bytes(8))
    assert "type 99" in refusal(hostile.reads(strange))[1]


# --- versions and bytes ---


def test_versions() -> None:
    model = hostile.operator("Relu")
    model.ir_version = 99
    assert "version 99" in refusal(model)[1]
    model.ir_version = 10
    model.opset_import[0].version = 99
    assert "version 99" in refusal(model)[1]


def test_bytes_that_two_parsers_could_read_differently() -> None:
    data = hostile.operator("Relu").SerializeToString()
    assert passes(data) == frozenset()
    assert "twice" in refusal(data + data)[1]
    assert "no graph" in refusal(b"\x08\x0a")[1]
    assert "not known" in refusal(data + b"\x9a\x06\x00")[1]  # field 99
    assert "not known" in refusal(data + b"\x3b\x3c")[1]  # field 7 as a group
    assert "beyond its end" in refusal(data + b"\x72\xff\x7f")[1]
    assert "no end" in refusal(data + b"\x72" + b"\xff" * 12)[1]
    assert refusal(data[:-1])[0] == "FORMAT"
