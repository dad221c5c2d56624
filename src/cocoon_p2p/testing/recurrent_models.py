"""Tiny recurrent models, for tests of state that one call hands to the next. As in `models`, each function writes one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save_model

from cocoon_p2p.testing.models import IR_VERSION, OPSET

INPUT, HIDDEN = 3, 4
STATE = (("h", "h_next"),)
"""What the manifest of both says about it."""


def gru_model(folder: Path) -> Path:
    """One step of a GRU for each row: x float32[batch,3], h float32[batch,4] → y = h_next float32[batch,4]. The state stands before the
    input, which items are counted at."""
    axes = numpy_helper.from_array(np.array([0], np.int64), "axes")
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axes"], ["steps"]),
        helper.make_node("Unsqueeze", ["h", "axes"], ["before"]),
        helper.make_node("GRU", ["steps", "w", "r", "", "", "before"], ["", "after"], hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["after", "axes"], ["h_next"]),
        helper.make_node("Identity", ["h_next"], ["y"]),
    ]
    inputs = {"h": ["batch", HIDDEN], "x": ["batch", INPUT]}
    return _save(folder / "gru.onnx", nodes, inputs, {"y": ["batch", HIDDEN], "h_next": ["batch", HIDDEN]}, [axes])


def gru_sequence_model(folder: Path) -> Path:
    """The same for one sequence of any length: x float32[steps,1,3], h float32[1,1,4] → y float32[steps,1,1,4], h_next float32[1,1,4]."""
    nodes = [helper.make_node("GRU", ["x", "w", "r", "", "", "h"], ["y", "h_next"], hidden_size=HIDDEN)]
    inputs: dict[str, list[int | str]] = {"x": ["steps", 1, INPUT], "h": [1, 1, HIDDEN]}
    return _save(folder / "gru-sequence.onnx", nodes, inputs, {"y": ["steps", 1, 1, HIDDEN], "h_next": [1, 1, HIDDEN]})


def _save(
    path: Path, nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], constants: list[Any] | None = None
) -> Path:
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((1, 3 * HIDDEN, width)).astype(np.float32), name)
        for name, width in (("w", INPUT), ("r", HIDDEN))
    ]
    graph = helper.make_graph(
        nodes,
        "gru",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [*weights, *(constants or [])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, str(path))
    return path
