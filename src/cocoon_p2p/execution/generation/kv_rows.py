"""Keys and values of graphs that give back all of them, longer by the new tokens: each answer has its own, and runs alone."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from cocoon_p2p.execution.generation.kv_cache import Graph, Row
from cocoon_p2p.execution.generation.sampling import Logits


class SeparateRows:
    """Implements `KeyValues`."""

    together = 1

    def __init__(self, graph: Graph, *, rows_max: int, bytes_max: int, device: str) -> None:
        self._graph = graph
        self._rows_max = rows_max
        self._tokens_max = bytes_max // graph.spec.kv_bytes_per_token
        self._device = device
        self._reserved: dict[Row, int] = {}

    @property
    def bytes_held(self) -> int:
        return sum(row.length for row in self._reserved) * self._graph.spec.kv_bytes_per_token

    def open(self, tokens: int) -> Row | None:
        if len(self._reserved) >= self._rows_max:
            return None
        row = Row()
        self._reserved[row] = 0
        if not self.reserve(row, tokens):
            del self._reserved[row]
            return None
        spec = self._graph.spec
        empty = np.zeros((1, spec.kv_heads, 0, spec.head_size), self._graph.cache_type)
        row.values = [ort.OrtValue.ortvalue_from_numpy(empty) for _ in self._graph.past]
        return row

    def reserve(self, row: Row, tokens: int) -> bool:
        others = sum(held for other, held in self._reserved.items() if other is not row)
        if others + tokens > self._tokens_max:
            return False
        self._reserved[row] = max(tokens, self._reserved[row])
        return True

    def holds(self, tokens: int) -> bool:
        return tokens <= self._tokens_max

    def extend(self, row: Row, ids: Sequence[int], options: Any) -> Logits:
        graph = self._graph
        binding = graph.session.io_binding()
        kept = graph.bind_tokens(binding, ids, row.length)
        for name, value in zip(graph.past, row.values, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name in graph.present:
            binding.bind_output(name, self._device)
        binding.bind_output(graph.spec.logits, "cpu")
        graph.session.run_with_iobinding(binding, options)
        del kept
        *values, logits = binding.get_outputs()
        row.values = list(values)
        row.length += len(ids)
        return graph.last_logits(logits)

    def step(self, rows: Sequence[Row], ids: Sequence[int], options: Any) -> Logits:
        return np.stack([self.extend(row, [token], options) for row, token in zip(rows, ids, strict=True)])

    def truncate(self, row: Row, length: int) -> None:
        shorter = [value.numpy()[:, :, :length].copy() for value in row.values]
        self._wipe(row)
        row.values = [ort.OrtValue.ortvalue_from_numpy(array) for array in shorter]
        row.length = length
        self._reserved[row] = length

    def close(self, row: Row) -> None:
        self._wipe(row)
        row.values = []
        row.length = 0
        del self._reserved[row]

    def _wipe(self, row: Row) -> None:
        for value in row.values:
            if value.device_name() == "cpu" and row.length:
                ctypes.memset(value.data_ptr(), 0, value.tensor_size_in_bytes())
