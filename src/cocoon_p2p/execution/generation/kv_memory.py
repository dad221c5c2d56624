"""The buffers behind slots: in this process's memory, or in that of an accelerator, where only ONNX Runtime can move things."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Place = tuple[int, int] | None
"""Where a row stood, and how many tokens of it count; None for a place that is to be empty."""

MOVER_MODEL = bytes.fromhex(
    "08083aec020a250a01780a056f726465721204726f777322064761746865722a0b0a04617869731800a001020a260a04"
    "726f77730a067374617274730a04656e64730a046178657312036375742205536c6963650a1e0a046b6565700a036375"
    "740a047a65726f12046b657074220557686572650a140a046b6570740a0470616473120179220350616412056d6f7665"
    "722a160801100742067374617274734a0800000000000000002a14080110074204617865734a0802000000000000002a"
    "0e100142047a65726f4a04000000005a1f0a0178121a0a18080112140a031201720a031201680a031201770a03120164"
    "5a140a056f72646572120b0a09080712050a0312016e5a200a046b65657012180a16080912120a0312016e0a0208010a"
    "0312016d0a0208015a120a04656e6473120a0a08080712040a0208015a120a0470616473120a0a08080712040a020808"
    "621f0a0179121a0a18080112140a0312016e0a031201680a031201760a0312016442040a001012"
)
"""y = x[order] with its third dimension cut to `ends`, zero where `keep` is false, and zeros added behind by `pads`; float32, opset 18.
As `testing.models.mover_model` makes it. It only moves bits: two numbers of float16 go as one of float32."""


class KvMemory(Protocol):
    """`tensors` buffers [rows, kv_heads, width, head_size], all of one shape, zero where nothing was written."""

    device: str
    """ONNX Runtime's name of the memory."""
    device_id: int
    dtype: Any
    shape: tuple[int, int]
    """(rows, width)"""
    version: int
    """Another when addresses have changed."""

    def pointer(self, tensor: int, place: int) -> int:
        """Address of a row: this and the following ones are one piece."""

    def arrange(self, places: Sequence[Place], width: int) -> None:
        """Buffers of len(places) rows of another width, with the old rows in this order; what does not count is wiped."""

    def swap(self, a: int, b: int, places: Sequence[Place]) -> None:
        """Two rows change places. `places`: what stands where before."""

    def clear(self, place: int, start: int, stop: int, places: Sequence[Place]) -> None:
        """Wipe tokens of a row. `places`: what is to be there."""


class HostMemory:
    """Implements `KvMemory` with numpy."""

    device, device_id = "cpu", 0

    def __init__(self, tensors: int, kv_heads: int, head_size: int, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self._kv_heads, self._head_size = kv_heads, head_size
        self.shape, self.version = (0, 0), 0
        self.buffers: list[NDArray[Any]] = [self._empty(0, 0) for _ in range(tensors)]

    def pointer(self, tensor: int, place: int) -> int:
        return int(self.buffers[tensor][place:].ctypes.data)

    def arrange(self, places: Sequence[Place], width: int) -> None:
        for number, old in enumerate(self.buffers):  # one by one, so that little is held twice
            new = self._empty(len(places), width)
            for place, origin in enumerate(places):
                if origin is not None:
                    before, length = origin
                    new[place, :, :length] = old[before, :, :length]
            old[:] = 0
            self.buffers[number] = new
        self.shape = (len(places), width)
        self.version += 1

    def swap(self, a: int, b: int, places: Sequence[Place]) -> None:
        longest = max(place[1] for place in (places[a], places[b]) if place is not None)
        for buffer in self.buffers:
            kept = buffer[a, :, :longest].copy()
            buffer[a, :, :longest] = buffer[b, :, :longest]
            buffer[b, :, :longest] = kept

    def clear(self, place: int, start: int, stop: int, places: Sequence[Place]) -> None:
        for buffer in self.buffers:
            buffer[place, :, start:stop] = 0

    def _empty(self, rows: int, width: int) -> NDArray[Any]:
        return np.zeros((rows, self._kv_heads, width, self._head_size), self.dtype)


class DeviceMemory:
    """Implements `KvMemory` with tensors of ONNX Runtime, which a little graph moves: all of them in one pass, at the speed of the
    device's memory."""

    def __init__(
        self, tensors: int, kv_heads: int, head_size: int, dtype: Any, *, provider: str, device: str, device_id: int
    ) -> None:
        """`device`: as ONNX Runtime calls the provider's memory ("cuda")."""
        self.dtype = np.dtype(dtype)
        self.device, self.device_id = device, device_id
        self.shape, self.version = (0, 0), 0
        self._kv_heads, self._head_size = kv_heads, head_size
        self._values: list[Any] = [None] * tensors
        options = ort.SessionOptions()
        options.log_severity_level = 4
        own: list[Any] = [provider] if device == "cpu" else [(provider, {"device_id": str(device_id)}), _CPU]
        self._mover = ort.InferenceSession(MOVER_MODEL, options, providers=own)

    def pointer(self, tensor: int, place: int) -> int:
        row: int = self._kv_heads * self.shape[1] * self._head_size * self.dtype.itemsize
        return int(self._values[tensor].data_ptr()) + place * row

    def arrange(self, places: Sequence[Place], width: int) -> None:
        rows, old_width = self.shape
        self.version += 1
        origins = [place for place in places if place is not None]
        if not origins or not rows:
            self._values = [self._empty(len(places), width) if places else None for _ in self._values]
            self.shape = (len(places), width)
            return
        kept = min(width, old_width)
        order = np.array([0 if place is None else place[0] for place in places], np.int64)
        lengths = np.array([0 if place is None else place[1] for place in places])
        feeds = {
            "order": order,
            "keep": (np.arange(kept) < lengths[:, None])[:, None, :, None],
            "ends": np.array([kept], np.int64),
            "pads": np.array([0, 0, 0, 0, 0, 0, width - kept, 0], np.int64),
        }
        for number, old in enumerate(self._values):
            self._values[number] = self._moved(old, feeds, len(places), width)
        self.shape = (len(places), width)

    def swap(self, a: int, b: int, places: Sequence[Place]) -> None:
        order = list(places)
        order[a], order[b] = order[b], order[a]
        self.arrange(order, self.shape[1])

    def clear(self, place: int, start: int, stop: int, places: Sequence[Place]) -> None:
        self.arrange(places, self.shape[1])

    def _moved(self, old: Any, feeds: dict[str, NDArray[Any]], rows: int, width: int) -> Any:
        new = self._empty(rows, width)
        binding = self._mover.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        where = (self.device, self.device_id, np.float32)
        binding.bind_input("x", *where, self._as_float32(*self.shape), old.data_ptr())
        binding.bind_output("y", *where, self._as_float32(rows, width), new.data_ptr())
        self._mover.run_with_iobinding(binding)
        return new

    def _as_float32(self, rows: int, width: int) -> list[int]:
        return [rows, self._kv_heads, width, self._head_size * self.dtype.itemsize // 4]

    def _empty(self, rows: int, width: int) -> Any:
        shape = (rows, self._kv_heads, width, self._head_size)
        assert prod(shape)
        return ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, self.dtype), self.device, self.device_id)


_CPU = "CPUExecutionProvider"
