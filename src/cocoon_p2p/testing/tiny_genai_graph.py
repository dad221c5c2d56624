"""The graph of the tiny language model of `testing.tiny_genai`, in the three forms that such graphs are found in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

GRAPHS = ("grouped", "positions", "plain")
_EPSILON = 1e-6
_THETA = 10_000.0
_MICROSOFT = "com.microsoft"
_FAR = np.float32(-1e9)
Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class TinyShape:
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    context: int
    graph: str
    kv_dtype: str

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def in_place(self) -> bool:
        """Whether past and present may be the same memory."""
        return self.graph != "plain"

    @property
    def text_inputs(self) -> tuple[str, ...]:
        positions = () if self.graph == "grouped" else ("position_ids",)
        return ("input_ids", "attention_mask", *positions)


def tiny_graph(shape: TinyShape, weights: Weights) -> ModelProto:
    return _Builder(shape, weights).model()


class _Builder:
    def __init__(self, shape: TinyShape, weights: Weights) -> None:
        self._shape = shape
        self._weights = weights
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._half = shape.kv_dtype == "float16"

    def model(self) -> ModelProto:
        shape = self._shape
        self._prepare()
        x = self._op("Gather", [self._weight("embed"), "input_ids"], "embedded")
        for layer in range(shape.layers):
            x = self._layer(layer, x)
        normed = self._norm(x, self._weight("norm"), "final")
        self._op("MatMul", [normed, self._weight("lm_head")], "logits")
        graph = helper.make_graph(self._nodes, "tiny", self._inputs(), self._outputs(), [*self._constants.values()])
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid(_MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="cocoon-tiny")

    # --- pieces of the graph ------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """What all layers read: lengths, angles and, for basic operators, the mask."""
        shape = self._shape
        inverse = 1.0 / _THETA ** (np.arange(0, shape.head_size, 2) / shape.head_size)
        angles = np.outer(np.arange(shape.context), inverse)
        dtype = np.float16 if self._half and shape.graph == "grouped" else np.float32
        self._constant("cosines", np.cos(angles).astype(dtype))
        self._constant("sines", np.sin(angles).astype(dtype))
        if shape.graph == "plain":
            self._prepare_mask()
        else:
            ones = self._constant("axis_1", np.array([1], np.int64))
            length = self._op("ReduceSum", ["attention_mask", ones], "mask_sum", keepdims=0)
            last = self._op("Sub", [length, ones], "mask_last")
            self._op("Cast", [last], "seqlens_k", to=TensorProto.INT32)
            of_mask = self._op("Shape", ["attention_mask"], "mask_shape")
            total = self._op("Gather", [of_mask, self._constant("one", np.array(1, np.int64))], "total", axis=0)
            self._op("Cast", [total], "total_length", to=TensorProto.INT32)

    def _prepare_mask(self) -> None:
        """bias [batch, 1, new, total]: 0 where a token may look, far below where not."""
        whole = self._op("Shape", ["attention_mask"], "mask_shape")
        one, zero = self._constant("one", np.array(1, np.int64)), self._constant("zero", np.array(0, np.int64))
        total = self._op("Gather", [whole, one], "total", axis=0)
        places = self._op("Range", [zero, total, one], "places")
        rows = self._op("Unsqueeze", ["position_ids", self._constant("axis_2", np.array([2], np.int64))], "rows")
        seen = self._op("GreaterOrEqual", [rows, places], "seen")
        far, near = self._constant("far", _FAR), self._constant("near", np.float32(0))
        bias = self._op("Where", [seen, near, far], "bias_3")
        self._op("Unsqueeze", [bias, self._constant("axis_1", np.array([1], np.int64))], "bias")

    def _layer(self, layer: int, x: str) -> str:
        at = f"layer{layer}."
        normed = self._norm(x, self._weight(f"{at}norm_1"), f"{at}first")
        q, k, v = (self._op("MatMul", [normed, self._weight(at + name)], f"{at}{name}_out") for name in "qkv")
        attended = self._plain(layer, q, k, v) if self._shape.graph == "plain" else self._grouped(layer, q, k, v)
        projected = self._op("MatMul", [attended, self._weight(f"{at}o")], f"{at}o_out")
        x = self._op("Add", [x, projected], f"{at}middle")
        normed = self._norm(x, self._weight(f"{at}norm_2"), f"{at}second")
        gate = self._op("MatMul", [normed, self._weight(f"{at}gate")], f"{at}gate_out")
        up = self._op("MatMul", [normed, self._weight(f"{at}up")], f"{at}up_out")
        open_ = self._op("Sigmoid", [gate], f"{at}sigmoid")
        silu = self._op("Mul", [gate, open_], f"{at}silu")
        both = self._op("Mul", [silu, up], f"{at}both")
        down = self._op("MatMul", [both, self._weight(f"{at}down")], f"{at}down_out")
        return self._op("Add", [x, down], f"{at}end")

    def _grouped(self, layer: int, q: str, k: str, v: str) -> str:
        """GroupQueryAttention, whose past and present may be one piece of memory."""
        shape, at = self._shape, f"layer{layer}."
        rotates = shape.graph == "grouped"
        if not rotates:
            q, k = self._rotated(q, f"{at}q", shape.heads), self._rotated(k, f"{at}k", shape.kv_heads)
        q, k, v = (self._cast(value, TensorProto.FLOAT16) for value in (q, k, v))
        past = [f"past_key_values.{layer}.{kind}" for kind in ("key", "value")]
        present = [f"present.{layer}.{kind}" for kind in ("key", "value")]
        angles = ["cosines", "sines"] if rotates else []
        node = helper.make_node(
            "GroupQueryAttention",
            [q, k, v, *past, "seqlens_k", "total_length", *angles],
            [f"{at}attended", *present],
            name=f"/{at}attention",
            domain=_MICROSOFT,
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            do_rotary=int(rotates),
            rotary_interleaved=0,
            scale=float(shape.head_size**-0.5),
            local_window_size=-1,
        )
        self._nodes.append(node)
        return self._cast(f"{at}attended", TensorProto.FLOAT)

    def _plain(self, layer: int, q: str, k: str, v: str) -> str:
        """Attention of basic operators: present = past ‖ new."""
        shape, at = self._shape, f"layer{layer}."
        q, k = self._rotated(q, f"{at}q", shape.heads), self._rotated(k, f"{at}k", shape.kv_heads)
        heads = self._split(q, f"{at}q", shape.heads)
        whole = []
        for kind, value in (("key", k), ("value", v)):
            new = self._cast(self._split(value, f"{at}{kind}", shape.kv_heads), TensorProto.FLOAT16)
            past = f"past_key_values.{layer}.{kind}"
            present = self._op("Concat", [past, new], f"present.{layer}.{kind}", axis=2)
            whole.append(self._repeated(self._cast(present, TensorProto.FLOAT), f"{at}{kind}"))
        turned = self._op("Transpose", [whole[0]], f"{at}key_turned", perm=[0, 1, 3, 2])
        scores = self._op("MatMul", [heads, turned], f"{at}scores")
        scale = self._constant("scale", np.float32(shape.head_size**-0.5))
        scaled = self._op("Mul", [scores, scale], f"{at}scaled")
        biased = self._op("Add", [scaled, "bias"], f"{at}biased")
        shares = self._op("Softmax", [biased], f"{at}shares", axis=-1)
        mixed = self._op("MatMul", [shares, whole[1]], f"{at}mixed")
        joined = self._op("Transpose", [mixed], f"{at}joined", perm=[0, 2, 1, 3])
        flat = self._constant("flat", np.array([0, 0, -1], np.int64))
        return self._op("Reshape", [joined, flat], f"{at}attended")

    def _rotated(self, x: str, name: str, heads: int) -> str:
        """RotaryEmbedding of x [batch, new, heads·size] by `position_ids`."""
        inputs = [x, "position_ids", "cosines", "sines"]
        return self._op("RotaryEmbedding", inputs, f"{name}_rotated", domain=_MICROSOFT, num_heads=heads)

    def _split(self, x: str, name: str, heads: int) -> str:
        to = self._constant(f"split_{heads}", np.array([0, 0, heads, self._shape.head_size], np.int64))
        apart = self._op("Reshape", [x, to], f"{name}_apart")
        return self._op("Transpose", [apart], f"{name}_split", perm=[0, 2, 1, 3])

    def _repeated(self, x: str, name: str) -> str:
        """Each key/value head as often as heads read it."""
        order = np.repeat(np.arange(self._shape.kv_heads), self._shape.heads // self._shape.kv_heads)
        return self._op("Gather", [x, self._constant("head_order", order)], f"{name}_repeated", axis=1)

    def _norm(self, x: str, weight: str, name: str) -> str:
        inputs = [x, weight]
        return self._op("SimplifiedLayerNormalization", inputs, f"{name}_norm", axis=-1, epsilon=_EPSILON, stash_type=1)

    def _cast(self, x: str, to: int) -> str:
        """Round the cache of half precision; nothing where the cache is of single precision."""
        if not self._half:
            return x
        return self._op("Cast", [x], f"{x}_as_{TensorProto.DataType.Name(to).lower()}", to=to)

    # --- building -----------------------------------------------------------------------------------------------------

    def _op(self, kind: str, inputs: Sequence[str], output: str, *, domain: str = "", **attributes: Any) -> str:
        node = helper.make_node(kind, list(inputs), [output], name=f"/{output}", domain=domain, **attributes)
        self._nodes.append(node)
        return output

    def _weight(self, name: str) -> str:
        return self._constant(name, self._weights[name])

    def _constant(self, name: str, value: ArrayLike) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.array(value, order="C"), name)
        return name

    def _cache(self, name: str, length: str) -> Any:
        kind = TensorProto.FLOAT16 if self._half else TensorProto.FLOAT
        dimensions = ["batch_size", self._shape.kv_heads, length, self._shape.head_size]
        return helper.make_tensor_value_info(name, kind, dimensions)

    def _inputs(self) -> list[Any]:
        lengths = {"attention_mask": "total_sequence_length"}
        texts = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch_size", lengths.get(name, "sequence_length")])
            for name in self._shape.text_inputs
        ]
        return texts + [
            self._cache(f"past_key_values.{layer}.{kind}", "past_sequence_length")
            for layer in range(self._shape.layers)
            for kind in ("key", "value")
        ]

    def _outputs(self) -> list[Any]:
        dimensions = ["batch_size", "sequence_length", self._shape.vocab]
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, dimensions)
        return [logits] + [
            self._cache(f"present.{layer}.{kind}", "total_sequence_length")
            for layer in range(self._shape.layers)
            for kind in ("key", "value")
        ]
