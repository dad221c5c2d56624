"""Keys and values in slots: one buffer a layer, a row for each answer, written in place by GroupQueryAttention.

com.microsoft's GroupQueryAttention adds the new tokens' keys and values to the past ones where both are the same memory, at the
place that each row's mask tells; so rows of different length run together, and nothing is copied from step to step. A prompt is
run by itself: the operator takes several tokens behind others in a batch of one only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cocoon_p2p.execution.generation.kv_cache import Graph, Row
from cocoon_p2p.execution.generation.kv_memory import KvMemory, Place
from cocoon_p2p.execution.generation.sampling import Logits
from cocoon_p2p.limits import GENERATION_WIDTH_MIN, MIB

_SHRINK_BYTES_MIN = 64 * MIB
"""Buffers smaller than this are not worth moving what is in them."""
_SHRINK_FACTOR = 4


@dataclass(slots=True)
class _Step:
    """A run over the first rows: what stays the same from step to step is bound once."""

    binding: Any
    logits: NDArray[Any]


class Slots:
    """Implements `KeyValues`. Rows that a step extends stand in front."""

    def __init__(self, graph: Graph, memory: KvMemory, *, rows_max: int, bytes_max: int) -> None:
        self._graph = graph
        self._memory = memory
        self.together = rows_max
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._rows: list[Row | None] = []
        """Whose each row of the buffers is."""
        self._steps: dict[int, _Step] = {}
        self._bound_to = 0
        """Version of the memory that they are bound to."""

    @property
    def bytes_held(self) -> int:
        return self._bytes_of(*self._memory.shape)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, tokens) that there is memory for now."""
        return self._memory.shape

    @property
    def _width(self) -> int:
        return self._memory.shape[1]

    def open(self, tokens: int) -> Row | None:
        if None not in self._rows and not self._make_room(len(self._rows) + 1, tokens):
            return None
        if tokens > self._width and not self._make_room(self._taken + 1, tokens):
            return None
        row = Row(self._rows.index(None))
        self._rows[row.place] = row
        return row

    def reserve(self, row: Row, tokens: int) -> bool:
        return tokens <= self._width or self._make_room(self._taken, tokens)

    def holds(self, tokens: int) -> bool:
        return tokens <= self._graph.spec.context and self._bytes_of(1, tokens) <= self._bytes_max

    def extend(self, row: Row, ids: Sequence[int], options: Any) -> Logits:
        graph = self._graph
        binding = graph.session.io_binding()
        kept = graph.bind_tokens(binding, ids, row.length)
        self._bind_rows(binding, row.place, 1)
        binding.bind_output(graph.spec.logits, "cpu")
        graph.session.run_with_iobinding(binding, options)
        del kept
        row.length += len(ids)
        return graph.last_logits(binding.get_outputs()[-1])

    def step(self, rows: Sequence[Row], ids: Sequence[int], options: Any) -> Logits:
        self._to_the_front(rows)
        if self._bound_to != self._memory.version:
            self._steps.clear()
            self._bound_to = self._memory.version
        step = self._steps.get(len(rows))
        if step is None:
            step = self._steps[len(rows)] = self._bind_step(len(rows))
        tokens = np.empty((len(rows), 1), self._graph.ids_type)
        lengths = np.empty((len(rows), 1), np.int64)
        for row, token in zip(rows, ids, strict=True):
            tokens[row.place] = token
            lengths[row.place] = row.length
        kept = self._bind_tokens(step.binding, tokens, lengths)
        self._graph.session.run_with_iobinding(step.binding, options)
        del kept
        for row in rows:
            row.length += 1
        places = [row.place for row in rows]
        ordered = step.logits[:, 0] if places == list(range(len(rows))) else step.logits[places, 0]
        logits: Logits = ordered.astype(np.float32, copy=False)
        return logits

    def truncate(self, row: Row, length: int) -> None:
        old, row.length = row.length, length
        if length < old:
            self._memory.clear(row.place, length, old, self._places())

    def close(self, row: Row) -> None:
        self.truncate(row, 0)
        self._rows[row.place] = None
        row.place = -1
        self._shrink()

    # --- memory -------------------------------------------------------------------------------------------------------

    @property
    def _taken(self) -> int:
        return sum(row is not None for row in self._rows)

    def _bytes_of(self, rows: int, width: int) -> int:
        return rows * width * self._graph.spec.kv_bytes_per_token

    def _make_room(self, rows: int, tokens: int) -> bool:
        """Have at least so many rows of at least so many tokens, twice as many as before if that is allowed."""
        if rows > self._rows_max or tokens > self._graph.spec.context:
            return False
        tokens = max(tokens, self._width)
        width = min(_power_of_two(max(tokens, GENERATION_WIDTH_MIN)), self._graph.spec.context)
        for count, wide in (
            (max(len(self._rows), min(_power_of_two(rows), self._rows_max)), width),
            (rows, width),
            (rows, tokens),
        ):
            if self._bytes_of(count, wide) <= self._bytes_max:
                self._lay_out(count, wide)
                return True
        return False

    def _shrink(self) -> None:
        """Give memory back when a small part of it would do."""
        rows = [row for row in self._rows if row is not None]
        if not rows:
            self._lay_out(0, 0)
            return
        longest = max(row.length for row in rows)
        width = min(_power_of_two(max(longest + 1, GENERATION_WIDTH_MIN)), self._width)
        count = min(_power_of_two(len(rows)), len(self._rows))
        needed = self._bytes_of(count, width)
        if self.bytes_held > max(_SHRINK_BYTES_MIN, _SHRINK_FACTOR * needed):
            self._lay_out(count, width)

    def _lay_out(self, count: int, width: int) -> None:
        """Buffers of another size, with the same rows."""
        if (count, width) == self.shape:
            return
        rows = [row for row in self._rows if row is not None]
        places: list[Place] = [(row.place, row.length) for row in rows]
        self._memory.arrange([*places, *[None] * (count - len(rows))], width)
        for place, row in enumerate(rows):
            row.place = place
        self._rows = [*rows, *[None] * (count - len(rows))]

    def _places(self) -> list[Place]:
        return [None if row is None else (row.place, row.length) for row in self._rows]

    def _to_the_front(self, rows: Sequence[Row]) -> None:
        """Have exactly these rows in the first places."""
        wanted = set(rows)
        free = (place for place in range(len(rows)) if self._rows[place] not in wanted)
        for row in rows:
            if row.place >= len(rows):
                self._swap(row.place, next(free))

    def _swap(self, a: int, b: int) -> None:
        first, second = self._rows[a], self._rows[b]
        self._memory.swap(a, b, self._places())
        self._rows[a], self._rows[b] = second, first
        if first is not None:
            first.place = b
        if second is not None:
            second.place = a

    # --- binding ------------------------------------------------------------------------------------------------------

    def _bind_step(self, count: int) -> _Step:
        graph = self._graph
        step = _Step(
            graph.session.io_binding(),
            np.zeros((count, 1, graph.spec.vocab), graph.logits_type),
        )
        self._bind_rows(step.binding, 0, count)
        logits = step.logits
        step.binding.bind_output(graph.spec.logits, "cpu", 0, logits.dtype.type, logits.shape, logits.ctypes.data)
        return step

    def _bind_rows(self, binding: Any, place: int, count: int) -> None:
        """Rows from `place` on, as past and as present."""
        memory, spec = self._memory, self._graph.spec
        shape = (count, spec.kv_heads, self._width, spec.head_size)
        for number, (past, present) in enumerate(zip(self._graph.past, self._graph.present, strict=True)):
            where = (memory.device, memory.device_id, memory.dtype.type, shape, memory.pointer(number, place))
            binding.bind_input(past, *where)
            binding.bind_output(present, *where)

    def _bind_tokens(self, binding: Any, tokens: NDArray[Any], lengths: NDArray[np.int64]) -> list[NDArray[Any]]:
        """One token [rows, 1] behind as many as `lengths` [rows, 1]. The arrays must live as long as the run."""
        graph, spec = self._graph, self._graph.spec
        arrays = [tokens]
        binding.bind_cpu_input(spec.ids, tokens)
        if spec.mask is not None:
            arrays.append((np.arange(int(lengths.max()) + 1) <= lengths).astype(graph.mask_type))
            binding.bind_cpu_input(spec.mask, arrays[-1])
        if spec.positions is not None:
            arrays.append(lengths.astype(graph.positions_type))
            binding.bind_cpu_input(spec.positions, arrays[-1])
        return arrays


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
