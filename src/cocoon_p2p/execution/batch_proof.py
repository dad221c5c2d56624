"""May jobs of different clients stand in one run? Only of a model that was seen to keep the rows of a batch apart.

A dynamic leading dimension does not promise that: a model may centre, sort or sum over it, and would then mix one client's
data into another's answer. So before batching, three small runs on random inputs are compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cocoon_p2p.execution.arrays import BITS
from cocoon_p2p.execution.session import RUN_ERRORS, OnnxModel, Values
from cocoon_p2p.models.manifest import DYNAMIC, TensorSpec
from cocoon_p2p.tensors import STRING

_DYNAMIC_SIZES = (4, 64)
"""Tried for dimensions other than the leading one; convolutions need the larger."""
_ELEMENTS_MAX = 1 << 24


def proves_batching(model: OnnxModel, options: Any) -> bool:
    """Whether 1 row and 2 rows give by themselves what they give as 3 rows together."""
    manifest = model.manifest
    if len(model.leading_names()) > 1:
        return False  # the graph itself says that they are different dimensions
    if any(spec.dtype in BITS for spec in (*manifest.inputs, *manifest.outputs)):
        return False
    outputs = [spec.name for spec in manifest.outputs]
    for size in _DYNAMIC_SIZES:
        rng = np.random.default_rng(size)
        rows = {spec.name: _random(spec, 3, size, rng) for spec in manifest.inputs}
        if sum(array.size for array in rows.values()) > _ELEMENTS_MAX:
            return False
        try:
            first = model.run({name: array[:1] for name, array in rows.items()}, outputs, options)
            rest = model.run({name: array[1:] for name, array in rows.items()}, outputs, options)
            together = model.run(rows, outputs, options)
        except RUN_ERRORS:
            continue
        return all(_same(first, rest, together, name) for name in outputs)
    return False


def _random(spec: TensorSpec, rows: int, dynamic_size: int, rng: np.random.Generator) -> NDArray[Any]:
    assert spec.shape is not None
    shape = (rows, *(dynamic_size if dim == DYNAMIC else dim for dim in spec.shape[1:]))
    if spec.dtype == STRING:
        return rng.choice(np.array(["a", "bc", "1"], dtype=object), shape)
    if spec.dtype == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if spec.dtype.startswith(("float", "complex")):
        return rng.standard_normal(shape).astype(spec.dtype)
    # Whatever they stand for (token ids, masks, lengths), 1 and 2 exist more often than larger numbers.
    return rng.integers(1, 3, shape).astype(spec.dtype)


def _same(first: Values, rest: Values, together: Values, name: str) -> bool:
    if any(np.ndim(values[name]) == 0 for values in (first, rest, together)):
        return False
    apart = (first[name], rest[name])
    if (len(apart[0]), len(apart[1])) != (1, 2) or apart[0].shape[1:] != apart[1].shape[1:]:
        return False
    expected = np.concatenate(apart)
    if expected.shape != together[name].shape:
        return False
    if expected.dtype.kind not in "fc":
        return bool(np.array_equal(expected, together[name]))
    tolerance = 2e-2 if expected.dtype == np.float16 else 1e-3
    return bool(np.allclose(expected, together[name], rtol=tolerance, atol=tolerance / 10, equal_nan=True))
