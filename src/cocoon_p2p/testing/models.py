"""Tiny ONNX models, made with onnx and numpy, for tests: each function writes one file and returns its path."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 21, 10

Shape = Sequence[int | str | None] | None


def matmul_model(folder: Path) -> Path:
    """y = x @ w: x float32[batch,4] → y float32[batch,3], w[i,j] = 3 i + j. Its rows are independent: jobs batch."""
    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    return _write(
        folder / "matmul.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", 4])],
        [("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "w")],
    )


def two_in_two_out_model(folder: Path) -> Path:
    """sum = a + b, difference = a - b: all float32[rows,cols], both dimensions dynamic."""
    return _write(
        folder / "two.onnx",
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])],
        [(name, TensorProto.FLOAT, ["rows", "cols"]) for name in ("a", "b")],
        [(name, TensorProto.FLOAT, ["rows", "cols"]) for name in ("sum", "difference")],
    )


def centring_model(folder: Path) -> Path:
    """y = x - mean of x over the batch, float32[batch,2]: looks like a model that batches, and must not be."""
    axes = numpy_helper.from_array(np.array([0], np.int64), "axes")
    return _write(
        folder / "centring.onnx",
        [helper.make_node("ReduceMean", ["x", "axes"], ["mean"]), helper.make_node("Sub", ["x", "mean"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", 2])],
        [("y", TensorProto.FLOAT, ["batch", 2])],
        [axes],
    )


def copy_model(folder: Path, dtype: str, shape: Shape) -> Path:
    """y = x of any type (a key of `tensors.DTYPES`) and shape."""
    kind = TensorProto.DataType.Value({"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper()))
    return _write(
        folder / f"copy-{dtype}.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", kind, shape)],
        [("y", kind, shape)],
    )


def half_model(folder: Path) -> Path:
    """y = x + x in float16, from float32 x[n] by way of bfloat16 b: outputs y float16[n], b bfloat16[n]."""
    return _write(
        folder / "half.onnx",
        [
            helper.make_node("Cast", ["x"], ["b"], to=TensorProto.BFLOAT16),
            helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
            helper.make_node("Add", ["h", "h"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, ["n"])],
        [("y", TensorProto.FLOAT16, ["n"]), ("b", TensorProto.BFLOAT16, ["n"])],
    )


def four_bit_model(folder: Path) -> Path:
    """y float32[n] = the numbers of x int4[n]; z int4[n] = x again, by way of y."""
    one = numpy_helper.from_array(np.array(1, np.float32), "one")
    zero = helper.make_tensor("zero", TensorProto.INT4, [], [0])
    return _write(
        folder / "four-bit.onnx",
        [
            helper.make_node("DequantizeLinear", ["x", "one"], ["y"]),
            helper.make_node("QuantizeLinear", ["y", "one", "zero"], ["z"]),
        ],
        [("x", TensorProto.INT4, ["n"])],
        [("y", TensorProto.FLOAT, ["n"]), ("z", TensorProto.INT4, ["n"])],
        [one, zero],
    )


def constant_model(folder: Path, elements: int) -> Path:
    """y = `elements` float32 ones, from x float32[1] that counts for nothing: a small input, a large output."""
    size = numpy_helper.from_array(np.array([elements], np.int64), "size")
    return _write(
        folder / f"constant-{elements}.onnx",
        [
            helper.make_node(
                "ConstantOfShape", ["size"], ["ones"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
            ),
            helper.make_node("Mul", ["ones", "x"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, [1])],
        [("y", TensorProto.FLOAT, [elements])],
        [size],
    )


def failing_model(folder: Path) -> Path:
    """Reshapes x float32[batch,4] to the dimensions that the job gives, int64[rank]: fails when they do not fit."""
    return _write(
        folder / "failing.onnx",
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [("x", TensorProto.FLOAT, ["batch", 4]), ("shape", TensorProto.INT64, ["rank"])],
        [("y", TensorProto.FLOAT, None)],
    )


def slow_model(folder: Path) -> Path:
    """Counts to `turns` int64[]: a loop of small kernels, which can be ended between any two. 10^12 turns never end."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["on_in"], ["on_out"]), helper.make_node("Add", ["sum_in", "step"], ["sum_out"])],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("on_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_in", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_out", TensorProto.FLOAT, []),
        ],
        [numpy_helper.from_array(np.array(1, np.float32), "step")],
    )
    return _write(
        folder / "slow.onnx",
        [helper.make_node("Loop", ["turns", "on", "start"], ["count"], body=body)],
        [("turns", TensorProto.INT64, [])],
        [("count", TensorProto.FLOAT, [])],
        [
            numpy_helper.from_array(np.array(True), "on"),
            numpy_helper.from_array(np.array(0, np.float32), "start"),
        ],
    )


def kernel_model(folder: Path) -> Path:
    """sum of x @ x, x float32[n,n]: one large kernel, which nothing but the end of its process ends."""
    return _write(
        folder / "kernel.onnx",
        [
            helper.make_node("MatMul", ["x", "x"], ["square"]),
            helper.make_node("ReduceSum", ["square"], ["sum"], keepdims=0),
        ],
        [("x", TensorProto.DOUBLE, ["n", "m"])],
        [("sum", TensorProto.DOUBLE, [])],
    )


def hungry_model(folder: Path) -> Path:
    """sum of `elements` int64[1] float32 ones, which all stand in memory at once: a small input that takes what it says."""
    return _write(
        folder / "hungry.onnx",
        [
            helper.make_node(
                "ConstantOfShape", ["elements"], ["ones"], value=numpy_helper.from_array(np.ones(1, np.float32))
            ),
            helper.make_node("ReduceSum", ["ones"], ["sum"], keepdims=0),
        ],
        [("elements", TensorProto.INT64, [1])],
        [("sum", TensorProto.FLOAT, [])],
    )


def external_data_model(folder: Path, location: str, *, elements: int = 4) -> Path:
    """y = x + w, float32[elements], whose w is to be read from the file `location`; that file is not written."""
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[elements], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=location)
    weights.external_data.add(key="length", value=str(4 * elements))
    return _write(
        folder / "external.onnx",
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [("x", TensorProto.FLOAT, [elements])],
        [("y", TensorProto.FLOAT, [elements])],
        [weights],
    )


def embedding_model(folder: Path, *, words: Sequence[str] = ("[PAD]", "[UNK]", "a", "b", "c", "d")) -> Path:
    """A folder with a text model: sentence_embedding float32[batch,2] = (sum of the token ids, their number), and a
    tokenizer.json that splits at spaces and knows `words`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(words)},
            "unk_token": "[UNK]",
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis")
    tokens = ["batch", "tokens"]
    _write(
        folder / "model.onnx",
        [
            helper.make_node("Mul", ["input_ids", "attention_mask"], ["seen"]),
            helper.make_node("ReduceSum", ["seen", "axis"], ["sum"], keepdims=1),
            helper.make_node("ReduceSum", ["attention_mask", "axis"], ["count"], keepdims=1),
            helper.make_node("Concat", ["sum", "count"], ["both"], axis=1),
            helper.make_node("Cast", ["both"], ["sentence_embedding"], to=TensorProto.FLOAT),
        ],
        [(name, TensorProto.INT64, tokens) for name in ("input_ids", "attention_mask")],
        [("sentence_embedding", TensorProto.FLOAT, ["batch", 2])],
        [axis],
    )
    return folder


def probe_model() -> bytes:
    """y = x @ x, float32[4,4], in an operator set that every accelerator knows."""
    model = _model(
        [helper.make_node("MatMul", ["x", "x"], ["y"])],
        [("x", TensorProto.FLOAT, [4, 4])],
        [("y", TensorProto.FLOAT, [4, 4])],
        name="probe",
        opset=13,
        ir_version=8,
    )
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def mover_model() -> bytes:
    """y = x[order] with its third dimension cut to `ends`, zero where `keep` is false, zeros added behind by `pads`."""
    constants = {"starts": np.array([0], np.int64), "axes": np.array([2], np.int64), "zero": np.array(0, np.float32)}
    model = _model(
        [
            helper.make_node("Gather", ["x", "order"], ["rows"], axis=0),
            helper.make_node("Slice", ["rows", "starts", "ends", "axes"], ["cut"]),
            helper.make_node("Where", ["keep", "cut", "zero"], ["kept"]),
            helper.make_node("Pad", ["kept", "pads"], ["y"]),
        ],
        [
            ("x", TensorProto.FLOAT, ["r", "h", "w", "d"]),
            ("order", TensorProto.INT64, ["n"]),
            ("keep", TensorProto.BOOL, ["n", 1, "m", 1]),
            ("ends", TensorProto.INT64, [1]),
            ("pads", TensorProto.INT64, [8]),
        ],
        [("y", TensorProto.FLOAT, ["n", "h", "v", "d"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
        name="mover",
        opset=18,
        ir_version=8,
    )
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _model(
    nodes: Sequence[Any],
    inputs: Sequence[tuple[str, int, Shape]],
    outputs: Sequence[tuple[str, int, Shape]],
    constants: Sequence[Any] = (),
    *,
    name: str = "test",
    opset: int = OPSET,
    ir_version: int = IR_VERSION,
) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        name,
        [helper.make_tensor_value_info(*entry) for entry in inputs],
        [helper.make_tensor_value_info(*entry) for entry in outputs],
        list(constants),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def _write(
    path: Path,
    nodes: Sequence[Any],
    inputs: Sequence[tuple[str, int, Shape]],
    outputs: Sequence[tuple[str, int, Shape]],
    constants: Sequence[Any] = (),
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_model(nodes, inputs, outputs, constants).SerializeToString(deterministic=True))
    return path
