"""The text front end, in a worker process: strings to token ids, batches of like length, one row of output each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.arrays import BITS
from cocoon_p2p.execution.text_outputs import compute, computed
from cocoon_p2p.limits import TEXT_CHARS_MAX
from cocoon_p2p.models.manifest import Manifest
from cocoon_p2p.models.text_part import COMPUTED_DTYPE

_ORT_NUMPY: dict[str, Any] = {"int64": np.int64, "int32": np.int32}


class TextReader:
    """Tokenises as the model was trained: truncated to its length, not padded (`batch` pads, to the longest of a batch)."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        assert manifest.text is not None
        self.text = manifest.text
        self._dtypes = {spec.name: _ORT_NUMPY[spec.dtype] for spec in manifest.inputs}
        self._outputs = {spec.name: spec for spec in manifest.outputs}
        self._computed = computed(self.text)
        self.dtypes = {spec.name: spec.dtype for spec in manifest.outputs}
        """Of a text job's outputs, by their names."""
        if self._computed:
            self.dtypes = dict.fromkeys(self.text.outputs, COMPUTED_DTYPE)
        self._tokenizer = Tokenizer.from_file(str(folder / self.text.tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.text.max_tokens)

    def tokenise(self, strings: Sequence[str]) -> list[Encoding]:
        """Raises ExecutionError(code="INPUT") for a text that is too long to be looked at."""
        for string in strings:
            if len(string) > TEXT_CHARS_MAX:
                raise ExecutionError(
                    f"a text has {len(string)} characters; at most {TEXT_CHARS_MAX} are taken", code="INPUT"
                )
        rows: list[Encoding] = self._tokenizer.encode_batch(list(strings))
        return rows

    def batch(self, rows: Sequence[Encoding]) -> dict[str, NDArray[Any]]:
        """The model's inputs for these rows, [rows, longest]."""
        shape = (len(rows), max((len(row.ids) for row in rows), default=0))
        ids = np.full(shape, self.text.pad_id, self._dtypes[self.text.ids])
        mask, types = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for number, row in enumerate(rows):
            length = len(row.ids)
            ids[number, :length] = row.ids
            mask[number, :length] = 1
            types[number, :length] = row.type_ids
        inputs = {self.text.ids: ids}
        if self.text.mask is not None:
            inputs[self.text.mask] = mask.astype(self._dtypes[self.text.mask], copy=False)
        if self.text.types is not None:
            inputs[self.text.types] = types.astype(self._dtypes[self.text.types], copy=False)
        return inputs

    def graph_outputs(self, names: Sequence[str]) -> tuple[str, ...]:
        """The graph's outputs that a text job's outputs `names` are made of."""
        return self.text.runs if self._computed else tuple(names)

    def finish(self, values: dict[str, NDArray[Any]], rows: Sequence[Encoding]) -> dict[str, NDArray[Any]]:
        """A text job's outputs from those of the graph for a batch of these rows. Raises ValueError, MemoryError."""
        if not self._computed:
            return values
        mask = np.zeros((len(rows), max((len(row.ids) for row in rows), default=0)), np.int64)
        for number, row in enumerate(rows):
            mask[number, : len(row.ids)] = 1
        return dict(compute(self.text, values, mask))

    def empty(self, name: str, rows: int) -> NDArray[Any]:
        """An array for an output of `rows` rows, not filled."""
        if self._computed:
            return np.empty((rows, self._width()), np.float32)
        spec = self._outputs[name]
        assert spec.shape is not None
        return np.empty((rows, *spec.shape[1:]), BITS.get(spec.dtype) or np.dtype(spec.dtype))

    def _width(self) -> int:
        """Numbers of one row of a computed output: the last dimension of what it is made of, which is fixed."""
        shape = self._outputs[self.text.runs[0]].shape
        assert shape is not None
        return shape[-1]
