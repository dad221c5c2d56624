"""Blocks of shared memory, and the pool that keeps them warm: a fresh page costs a fault, 0.25 ms a megabyte.

A block has no name that could outlive its processes: its descriptor is handed over a Unix socket, and when the last
process that mapped it is gone, so is the memory, kill -9 or not.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys

from cocoon_p2p.limits import ENGINE_IDLE_BLOCK_BYTES_MAX, JOB_BYTES_MAX, KIB, MIB

if sys.platform == "linux":
    import fcntl

_BLOCK_BYTES_MIN = 128 * KIB
_ROUND_UP_FROM = 64 * MIB
_ZEROS = bytes(256 * KIB)
"""Source of wiping; stays in the cache, so a wipe runs at memory speed."""


class Block:
    """Memory that two processes share."""

    def __init__(self, number: int, size: int, descriptor: int) -> None:
        """Takes over `descriptor`. Raises OSError, ValueError when it is not a block of `size` bytes."""
        self.number = number
        self.size = size
        self._descriptor = descriptor
        try:
            self._mapping = mmap.mmap(descriptor, size)
        except (OSError, ValueError):
            os.close(descriptor)
            raise
        self.known_to: set[int] = set()
        """Numbers of the worker processes that have it mapped."""

    @classmethod
    def create(cls, number: int, size: int) -> Block:
        """Raises OSError, MemoryError when there is no memory for it."""
        return cls(number, size, _create_descriptor(size))

    @classmethod
    def attach(cls, number: int, size: int, descriptor: int) -> Block:
        """Map a block that the other side made. Raises ValueError, OSError when it is not what it is said to be."""
        if not 0 < size <= 2 * JOB_BYTES_MAX or not _is_sealed(descriptor, size):
            os.close(descriptor)
            raise ValueError("a block of shared memory could be taken away while it is read")
        return cls(number, size, descriptor)

    @property
    def descriptor(self) -> int:
        return self._descriptor

    def view(self, size: int) -> memoryview:
        """The first `size` bytes."""
        return memoryview(self._mapping)[:size]

    def wipe(self, size: int) -> None:
        """Zero the first `size` bytes."""
        with memoryview(self._mapping) as view:
            wipe(view[:size])

    def close(self) -> None:
        """Give the memory back. A view that somebody still holds keeps it alive for as long."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        try:
            self._mapping.close()
        except BufferError:
            return  # goes when the last view goes


class BlockPool:
    """Makes blocks and keeps released ones, wiped, up to a bound."""

    def __init__(self) -> None:
        self._free: list[Block] = []
        self._next = 1

    def take(self, size: int) -> Block:
        """A block of at least `size` bytes, all zeros. Raises OSError, MemoryError."""
        fitting = [block for block in self._free if block.size >= size]
        if fitting:
            block = min(fitting, key=lambda block: block.size)
            self._free.remove(block)
            return block
        block = Block.create(self._next, _rounded(size))
        self._next += 1
        return block

    def keeps(self, block: Block) -> bool:
        """Whether there is room to keep a block that is given back."""
        return block.size + sum(other.size for other in self._free) <= ENGINE_IDLE_BLOCK_BYTES_MAX

    def give(self, block: Block) -> None:
        """Keep a block that has been wiped."""
        self._free.append(block)

    def close(self) -> None:
        for block in self._free:
            block.close()
        self._free.clear()


def wipe(view: memoryview) -> None:
    """Zero a writable view of bytes."""
    for start in range(0, len(view), len(_ZEROS)):
        piece = view[start : start + len(_ZEROS)]
        piece[:] = _ZEROS[: len(piece)] if len(piece) < len(_ZEROS) else _ZEROS


def _rounded(size: int) -> int:
    if size > _ROUND_UP_FROM:
        return -(-size // (4 * MIB)) * (4 * MIB)
    return max(_BLOCK_BYTES_MIN, 1 << (size - 1).bit_length())


if sys.platform == "linux":

    def _create_descriptor(size: int) -> int:
        descriptor = os.memfd_create("cocoon", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size)
        # Neither side can cut it off under the other, which would end in SIGBUS.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return descriptor

    def _is_sealed(descriptor: int, size: int) -> bool:
        if os.fstat(descriptor).st_size != size:
            return False
        try:
            return bool(fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
        except OSError:
            return False

else:

    def _create_descriptor(size: int) -> int:
        import _posixshmem  # what multiprocessing.shared_memory is made of, without its tracker process

        name = f"/cocoon-{secrets.token_hex(8)}"
        descriptor: int = _posixshmem.shm_open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode=0o600)
        _posixshmem.shm_unlink(name)
        os.ftruncate(descriptor, size)
        return descriptor

    def _is_sealed(descriptor: int, size: int) -> bool:
        return os.fstat(descriptor).st_size >= size
