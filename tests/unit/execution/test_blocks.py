"""Shared memory: wiped, bounded, never cut off."""

from __future__ import annotations

import os
import sys

import pytest

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.blocks import Block, BlockPool
from cocoon_p2p.execution.input_buffers import InputBuffers
from cocoon_p2p.limits import ENGINE_IDLE_BLOCK_BYTES_MAX, JOB_BYTES_MAX, MIB


def test_two_mappings_see_the_same_memory() -> None:
    block = Block.create(1, 200_000)
    other = Block.attach(1, 200_000, os.dup(block.descriptor))
    block.view(200_000)[150_000:150_003] = b"abc"
    assert bytes(other.view(200_000)[150_000:150_003]) == b"abc"
    other.wipe(150_002)
    assert bytes(block.view(200_000)[150_000:150_003]) == b"\0\0c"
    block.close()
    other.close()


@pytest.mark.skipif(sys.platform != "linux", reason="seals are Linux's")
def test_a_block_cannot_be_cut_off() -> None:
    block = Block.create(1, 200_000)
    with pytest.raises(PermissionError):
        os.ftruncate(block.descriptor, 0)
    unsealed = os.memfd_create("x")
    os.ftruncate(unsealed, 4096)
    with pytest.raises(ValueError, match="taken away"):
        Block.attach(2, 4096, unsealed)
    with pytest.raises(ValueError, match="taken away"):
        Block.attach(2, 300_000, os.dup(block.descriptor))
    block.close()


def test_a_pool_gives_the_smallest_that_fits_and_keeps_within_its_bound() -> None:
    pool = BlockPool()
    small, large = pool.take(100_000), pool.take(10 * MIB)
    for block in (large, small):
        assert pool.keeps(block)
        pool.give(block)
    assert pool.take(100_000) is small
    assert pool.take(200_000) is large
    huge = pool.take(ENGINE_IDLE_BLOCK_BYTES_MAX + 1)
    assert not pool.keeps(huge)
    huge.close()
    pool.close()


def test_input_buffers_are_counted_and_wiped() -> None:
    forgotten: list[Block] = []
    buffers = InputBuffers(50 * MIB, forgotten.append)
    for size in (64, 64 * 1024, 64 * 1024 + 64, 2 * MIB):
        for _ in range(2):
            buffer = buffers.take(size)
            assert len(buffer.view) == size
            assert not any(buffer.view)
            buffer.view[:] = b"s" * size
            buffer.release()
            buffer.release()
            assert buffers.bytes_in_use == 0
    assert [block.size for block in forgotten] == [2 * MIB] * 2
    first = buffers.take(30 * MIB)
    with pytest.raises(ExecutionError) as caught:
        buffers.take(30 * MIB)
    assert (caught.value.code, caught.value.retryable) == ("LIMITS", True)
    first.release()
    for size in (0, -1, JOB_BYTES_MAX + 1):
        with pytest.raises(ExecutionError):
            buffers.take(size)
    buffers.close()
