"""Tiny models of text whose outputs want something done with them, and a recurrent one; made with onnx, for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from cocoon_p2p.testing.models import IR_VERSION, OPSET, embedding_model

GARBAGE = 1000.0
"""What stands in the first column for a token that is padding: whoever pools it in sees it."""


def token_vectors_model(folder: Path, *, mode: str | None = "mean_tokens", normalize: bool = False) -> Path:
    """A sentence-transformers folder: last_hidden_state float32[batch,tokens,2] = (id + GARBAGE · (1 - mask), 2 · mask), and the words
    a = 2, b = 3, c = 4, d = 5. `mode`: which pooling_mode_… of 1_Pooling/config.json is on; None leaves that file out."""
    embedding_model(folder)
    nodes = [
        *_casts(),
        helper.make_node("Sub", ["one", "present"], ["absent"]),
        helper.make_node("Mul", ["absent", "garbage"], ["rubbish"]),
        helper.make_node("Add", ["ids", "rubbish"], ["first"]),
        helper.make_node("Add", ["present", "present"], ["second"]),
        helper.make_node("Unsqueeze", ["first", "last"], ["column_1"]),
        helper.make_node("Unsqueeze", ["second", "last"], ["column_2"]),
        helper.make_node("Concat", ["column_1", "column_2"], ["last_hidden_state"], axis=2),
    ]
    constants = {
        "one": np.array(1, np.float32),
        "garbage": np.array(GARBAGE, np.float32),
        "last": np.array([2], np.int64),
    }
    output = ("last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", 2])
    _write(folder / "model.onnx", nodes, _text_inputs(), [output], constants)
    if mode is not None:
        (folder / "1_Pooling").mkdir(exist_ok=True)
        modes = {
            f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
        }
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 2, **modes}))
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    modules = [
        {"idx": i, "path": f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def classifier_model(folder: Path, *, labels: Sequence[str] = ("low", "high"), problem: str | None = None) -> Path:
    """A folder with logits float32[batch,2] = (sum of the token ids, their number), and a config.json with `labels`."""
    embedding_model(folder)
    nodes = [
        *_casts(),
        helper.make_node("Mul", ["ids", "present"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "axis"], ["sum"], keepdims=1),
        helper.make_node("ReduceSum", ["present", "axis"], ["count"], keepdims=1),
        helper.make_node("Concat", ["sum", "count"], ["logits"], axis=1),
    ]
    output = ("logits", TensorProto.FLOAT, ["batch", 2])
    _write(folder / "model.onnx", nodes, _text_inputs(), [output], {"axis": np.array([1], np.int64)})
    config: dict[str, Any] = {"id2label": {str(i): label for i, label in enumerate(labels)}}
    (folder / "config.json").write_text(json.dumps(config | ({"problem_type": problem} if problem else {})))
    return folder


def recurrent_model(folder: Path) -> Path:
    """y = h_out = h_in + x: float32[1,4] each, and other float32[1,2] = 0, which is no state of it."""
    path = folder / "recurrent.onnx"
    nodes = [
        helper.make_node("Add", ["x", "h_in"], ["h_out"]),
        helper.make_node("Identity", ["h_out"], ["y"]),
        helper.make_node("Identity", ["zeros"], ["other"]),
    ]
    inputs = [(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "h_in")]
    outputs = [(name, TensorProto.FLOAT, [1, 4]) for name in ("y", "h_out")] + [("other", TensorProto.FLOAT, [1, 2])]
    _write(path, nodes, inputs, outputs, {"zeros": np.zeros((1, 2), np.float32)})
    return path


def _casts() -> list[Any]:
    return [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["attention_mask"], ["present"], to=TensorProto.FLOAT),
    ]


def _text_inputs() -> list[tuple[str, int, list[str]]]:
    return [(name, TensorProto.INT64, ["batch", "tokens"]) for name in ("input_ids", "attention_mask")]


def _write(
    path: Path, nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], constants: dict[str, Any]
) -> None:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(*entry) for entry in inputs],
        [helper.make_tensor_value_info(*entry) for entry in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
