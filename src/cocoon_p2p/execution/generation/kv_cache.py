"""Keys and values of answers under way, and the runs of the graph that read and extend them: what both kinds have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cocoon_p2p.execution.generation.sampling import Logits
from cocoon_p2p.models.generation_spec import GenerationSpec

_NUMPY: dict[str, Any] = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


class Row:
    """One answer's keys and values."""

    __slots__ = ("length", "place", "values")

    def __init__(self, place: int = -1) -> None:
        self.length = 0
        """Tokens that it holds."""
        self.place = place
        """Of a row among slots."""
        self.values: list[Any] = []
        """Of a row by itself: an OrtValue for each of the graph's pasts."""


class KeyValues(Protocol):
    """Rows, each with as many tokens as its answer has."""

    together: int
    """Rows that one run extends by a token each."""

    def open(self, tokens: int) -> Row | None:
        """A row with room for so many tokens; None where there is none now."""

    def reserve(self, row: Row, tokens: int) -> bool:
        """Make room in a row. False: there is none now, and the row is as before."""

    def holds(self, tokens: int) -> bool:
        """Whether a row of so many tokens would fit if there were no other."""

    def extend(self, row: Row, ids: Sequence[int], options: Any) -> Logits:
        """Work on tokens behind those of the row, for which there is room. Returns the logits behind the last, [vocab]. Raises one
        of RUN_ERRORS, when `options` ended the run, too; the row is then as before."""

    def step(self, rows: Sequence[Row], ids: Sequence[int], options: Any) -> Logits:
        """One token for each of several rows: [rows, vocab], valid until the next run. Raises as `extend`."""

    def truncate(self, row: Row, length: int) -> None:
        """Forget the tokens from `length` on."""

    def close(self, row: Row) -> None:
        """Give the row back, wiped."""

    @property
    def bytes_held(self) -> int: ...


class Graph:
    """A session, and the names and types by which it is fed."""

    def __init__(self, session: Any, spec: GenerationSpec) -> None:
        self.session = session
        self.spec = spec
        kinds = {argument.name: argument.type for argument in (*session.get_inputs(), *session.get_outputs())}
        self.ids_type = _NUMPY[kinds[spec.ids]]
        self.mask_type = _NUMPY[kinds[spec.mask]] if spec.mask is not None else np.int64
        self.positions_type = _NUMPY[kinds[spec.positions]] if spec.positions is not None else np.int64
        self.logits_type = _NUMPY[kinds[spec.logits]]
        self.cache_type = np.dtype(spec.kv_dtype)
        self.past = [name for pair in spec.past_names() for name in pair]
        self.present = [name for pair in spec.present_names() for name in pair]

    def bind_tokens(self, binding: Any, ids: Sequence[int], before: int) -> list[NDArray[Any]]:
        """Tokens of one answer behind `before` others. The arrays must live as long as the run."""
        after = before + len(ids)
        arrays = [np.array([ids], self.ids_type)]
        binding.bind_cpu_input(self.spec.ids, arrays[0])
        if self.spec.mask is not None:
            arrays.append(np.ones((1, after), self.mask_type))
            binding.bind_cpu_input(self.spec.mask, arrays[-1])
        if self.spec.positions is not None:
            arrays.append(np.arange(before, after, dtype=self.positions_type)[None])
            binding.bind_cpu_input(self.spec.positions, arrays[-1])
        return arrays

    def last_logits(self, value: Any) -> Logits:
        """Of an output [1, tokens, vocab]; some graphs give the last token's alone."""
        logits: Logits = value.numpy()[0, -1].astype(np.float32)
        return logits
