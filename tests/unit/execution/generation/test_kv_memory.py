"""Buffers of keys and values, moved by numpy and by ONNX Runtime: both do the same."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from generation_rig import KV_DTYPES, Rig, greedy, text_ids, tiny

from cocoon_p2p.execution.generation.kv_memory import MOVER_MODEL, DeviceMemory, HostMemory, KvMemory
from cocoon_p2p.generation import GenerationRequest
from cocoon_p2p.testing.models import mover_model

HEADS, SIZE = 2, 4


def memories(dtype: str) -> tuple[HostMemory, DeviceMemory]:
    shape = (3, HEADS, SIZE, dtype)
    return HostMemory(*shape), DeviceMemory(*shape, provider="CPUExecutionProvider", device="cpu", device_id=0)


def seen(memory: KvMemory, tensor: int) -> np.ndarray[Any, Any]:
    """A tensor's memory itself."""
    rows, width = memory.shape
    size = rows * HEADS * width * SIZE * memory.dtype.itemsize
    raw = (ctypes.c_char * size).from_address(memory.pointer(tensor, 0))
    return np.frombuffer(raw, memory.dtype).reshape(rows, HEADS, width, SIZE)


def test_the_graph_that_moves_is_the_one_that_is_made() -> None:
    assert mover_model() == MOVER_MODEL


@pytest.mark.parametrize("dtype", KV_DTYPES)
def test_both_kinds_move_alike(dtype: str) -> None:
    both = memories(dtype)
    rng = np.random.default_rng(0)
    filling = [rng.standard_normal((3, HEADS, 8, SIZE)).astype(dtype) for _ in range(3)]
    filling[0][1, 1, 2, 3] = np.nan
    for memory in both:
        memory.arrange([None] * 3, 8)
        for tensor, values in enumerate(filling):
            assert not seen(memory, tensor).any()
            seen(memory, tensor)[:] = values
        memory.swap(0, 2, [(0, 8), (1, 8), (2, 8)])
        memory.arrange([(2, 5), None, (1, 8), None], 16)
        memory.clear(2, 6, 8, [(0, 5), None, (2, 6), None])
        memory.arrange([(2, 6), (0, 5)], 6)
    for tensor in range(3):
        wanted = np.zeros((2, HEADS, 6, SIZE), dtype)
        wanted[0] = filling[tensor][1, :, :6]
        wanted[1, :, :5] = filling[tensor][0, :, :5]
        for memory in both:
            np.testing.assert_array_equal(seen(memory, tensor), wanted)
            assert memory.pointer(tensor, 1) - memory.pointer(tensor, 0) == wanted[0].nbytes
    for memory in both:
        memory.arrange([], 0)
        assert memory.shape == (0, 0)


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("graph", ["grouped", "positions"])
def test_answers_from_a_device_are_the_same(graph: str, kv_dtype: str) -> None:
    folder = tiny(graph, kv_dtype)
    rig = Rig(folder, rows_max=3, tokens_max=700, device_memory=True)
    texts = {f"prompt {number}" * (1 + number): 30 + 60 * number for number in range(6)}
    answers = {
        text: rig.add(GenerationRequest(prompt=text, max_tokens=count, chat=text[:9])) for text, count in texts.items()
    }
    rig.finish()
    for text, answer in answers.items():
        assert rig.result(answer).ids == list(greedy(folder, tuple(text_ids(text)), texts[text])), text
    again = rig.run(GenerationRequest(prompt="prompt 5" * 6, max_tokens=30, chat="prompt 5p"))
    assert again.reused == 47
    assert again.ids == list(greedy(folder, tuple(text_ids("prompt 5" * 6)), 30))
