"""Reads from an ONNX file what its manifest needs: inputs, outputs, operator sets, external data.

The parser is C++ fed with a stranger's bytes, and costs memory: `inspect_in_subprocess` keeps both out of the node.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.limits import MODEL_INSPECTION_TIMEOUT_S
from cocoon_p2p.models.manifest import DYNAMIC, FLOAT16, FLOAT32, INT8, TensorSpec
from cocoon_p2p.tensors import DTYPES

_NESTING_MAX = 32
_DTYPE_OF_CODE = {code: name for name, (code, _) in DTYPES.items()}
_QUANTISED = re.compile(r"uantize|^QLinear|^QGemm$|^QAttention$|^QEmbed|Integer$|NBits$|Bnb4$")
"""Operators of ONNX and of ONNX Runtime that compute with weights or activations of 8 bits or fewer."""


class NotOnnx(ValueError):
    """The file is not an ONNX model that this program can run; the message says why."""


class NotAllowed(NotOnnx):
    """It is one, with something in it that is not let near ONNX Runtime (models.guard); the message says what."""


@dataclass(frozen=True, slots=True)
class OnnxFacts:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: tuple[tuple[str, int], ...]
    external: tuple[str, ...]
    """Locations of external data, as they stand in the file: not to be trusted."""
    precision: str = FLOAT32
    """As `Manifest.precision`."""
    grouped: tuple[tuple[str, str, str, str], ...] = ()
    """Of each GroupQueryAttention at the top of the graph: its past key and value, its present key and value."""


def inspect_onnx(path: Path) -> OnnxFacts:
    """The facts of the model file. Imports `onnx` into this process. Raises NotOnnx."""
    import onnx
    from google.protobuf.message import DecodeError

    data = path.read_bytes()
    if data[4:8] == b"ORTM":
        raise NotOnnx("it is in ONNX Runtime's own format; export it as .onnx")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise NotOnnx("its bytes cannot be parsed") from error
    if not model.ir_version or not model.opset_import or not model.graph.output:
        raise NotOnnx("it holds no graph with outputs")
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return OnnxFacts(
        inputs=tuple(_spec(info) for info in model.graph.input if info.name not in constants),
        outputs=tuple(_spec(info) for info in model.graph.output),
        opset=tuple(sorted((entry.domain, entry.version) for entry in model.opset_import)),
        external=tuple(sorted(set(_external(model)))),
        precision=_precision(model),
        grouped=tuple(_grouped(model.graph)),
    )


def inspect_in_subprocess(path: Path) -> OnnxFacts:
    """As `inspect_onnx`, in a process of its own, which takes about half a second. Raises NotOnnx, ConfigError."""
    # A jailed process (which is made of what stands above this layer). -P: the working directory must not shadow modules.
    command = [sys.executable, "-P", "-m", "cocoon_p2p.execution.inspecting", str(path)]
    try:
        # whatever the file does to the process that reads it, there is no passphrase in there
        clean = {name: value for name, value in os.environ.items() if not name.startswith("COCOON_")}
        clean["OPENBLAS_NUM_THREADS"] = "1"  # numpy's threads could not be shut in
        done = subprocess.run(command, capture_output=True, timeout=MODEL_INSPECTION_TIMEOUT_S, check=False, env=clean)
    except subprocess.TimeoutExpired as error:
        raise NotOnnx(f"reading it took longer than {MODEL_INSPECTION_TIMEOUT_S:.0f} s") from error
    if done.returncode < 0:
        raise NotOnnx(
            f"reading it ended with signal {-done.returncode}: too large for this machine's memory, or hostile"
        )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ConfigError(f"the model could not be read: {''.join(last)[:200]}", hint="is `onnx` installed?")
    tree = json.loads(done.stdout)
    if "error" in tree:
        raise (NotAllowed if tree.get("refused") else NotOnnx)(tree["error"])
    return OnnxFacts(
        inputs=tuple(_spec_from_json(spec) for spec in tree["inputs"]),
        outputs=tuple(_spec_from_json(spec) for spec in tree["outputs"]),
        opset=tuple((domain, version) for domain, version in tree["opset"]),
        external=tuple(tree["external"]),
        precision=tree["precision"],
        grouped=tuple((key, value, new_key, new_value) for key, value, new_key, new_value in tree["grouped"]),
    )


def _spec(info: Any) -> TensorSpec:
    if info.type.WhichOneof("value") != "tensor_type":
        raise NotOnnx(f"{info.name!r} is no tensor (sequences, maps and optional values cannot be sent)")
    tensor = info.type.tensor_type
    if tensor.elem_type not in _DTYPE_OF_CODE:
        raise NotOnnx(f"{info.name!r} has the element type {tensor.elem_type}, which is not known here")
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(_dimension(dim) for dim in tensor.shape.dim)
    return TensorSpec(info.name, _DTYPE_OF_CODE[tensor.elem_type], shape)


def _dimension(dim: Any) -> int:
    # Some exporters write -1 where they mean a name.
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else DYNAMIC


def _external(model: Any) -> Iterator[str]:
    for tensor in _tensors(model):
        if tensor.data_location == tensor.EXTERNAL:
            for entry in tensor.external_data:
                if entry.key == "location":
                    yield entry.value


def _precision(model: Any) -> str:
    """By the operators and by the types of its tensors, inputs and outputs. A plain tensor of bytes says nothing: it may be
    a table or a picture; numbers of 8 bits are weights only where an operator takes them for such."""
    dtypes = {_DTYPE_OF_CODE.get(tensor.data_type, "") for tensor in _tensors(model)}
    for info in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        dtypes.add(_DTYPE_OF_CODE.get(info.type.tensor_type.elem_type, ""))
    operators = set()
    for node in _nodes(model):
        operators.add(node.op_type)
        if node.op_type == "Cast":
            dtypes.update(_DTYPE_OF_CODE.get(attribute.i, "") for attribute in node.attribute if attribute.name == "to")
    if any(_QUANTISED.search(operator) for operator in operators) or any(name.startswith("float8") for name in dtypes):
        return INT8
    return FLOAT16 if dtypes & {"float16", "bfloat16"} else FLOAT32


def _grouped(graph: Any) -> Iterator[tuple[str, str, str, str]]:
    """ONNX Runtime's ContribOperators.md: inputs 3 and 4 are past key and value, outputs 1 and 2 the present ones."""
    for node in graph.node:
        grouped = node.op_type == "GroupQueryAttention" and node.domain == "com.microsoft"
        if grouped and len(node.input) > 4 and len(node.output) > 2:
            yield node.input[3], node.input[4], node.output[1], node.output[2]


def _nodes(model: Any) -> Iterator[Any]:
    """Every operator of a model that a job runs."""
    yield from _graph_nodes(model.graph.node, 0)
    for function in model.functions:
        yield from _graph_nodes(function.node, 0)


def _graph_nodes(nodes: Any, depth: int) -> Iterator[Any]:
    if depth > _NESTING_MAX:
        raise NotOnnx(f"its graphs are nested deeper than {_NESTING_MAX}")
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _graph_nodes(graph.node, depth + 1)


def _tensors(model: Any) -> Iterator[Any]:
    """Every tensor of a model, wherever it may stand."""
    yield from _graph_tensors(model.graph, 0)
    for function in model.functions:
        yield from _node_tensors(function.node, 0)
    for training in model.training_info:
        yield from _graph_tensors(training.initialization, 0)
        yield from _graph_tensors(training.algorithm, 0)


def _graph_tensors(graph: Any, depth: int) -> Iterator[Any]:
    if depth > _NESTING_MAX:
        raise NotOnnx(f"its graphs are nested deeper than {_NESTING_MAX}")
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node, depth)


def _node_tensors(nodes: Any, depth: int) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            if attribute.HasField("g"):
                yield from _graph_tensors(attribute.g, depth + 1)
            for graph in attribute.graphs:
                yield from _graph_tensors(graph, depth + 1)


def _spec_from_json(tree: Any) -> TensorSpec:
    name, dtype, shape = tree
    return TensorSpec(name, dtype, None if shape is None else tuple(shape))


def _spec_to_json(spec: TensorSpec) -> list[Any]:
    return [spec.name, spec.dtype, spec.shape]


def print_facts(path: Path) -> None:
    """What the other side of `inspect_in_subprocess` prints: the facts, or {"error": why there are none}."""
    try:
        facts = inspect_onnx(path)
    except NotOnnx as error:
        json.dump({"error": str(error)}, sys.stdout)
        return
    tree = {
        "inputs": [_spec_to_json(spec) for spec in facts.inputs],
        "outputs": [_spec_to_json(spec) for spec in facts.outputs],
        "opset": facts.opset,
        "external": facts.external,
        "precision": facts.precision,
        "grouped": facts.grouped,
    }
    json.dump(tree, sys.stdout)
