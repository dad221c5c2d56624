"""A sealed tensor from one memory into another over our network: sealed as a job's input is, sent as its messages, opened
where it is wanted. Pages are there on both sides before the clock runs, as in the baseline (bench/tls_blocking.py)."""

from __future__ import annotations

import os
import secrets
import time

from cocoon_p2p.drivers.bulk import bulk_frame, payload_memory, sealed_pieces
from cocoon_p2p.ids import JobId
from cocoon_p2p.net.port import Stream
from cocoon_p2p.sealing.envelope import SealKey, seal_request
from cocoon_p2p.wire.job import Input, decode_message

PROTOCOL = "/bench/sealed/1"
HEADER = b"benchmark"
_PAGE_BYTES = 4096
_SOURCE_BYTES = 64 << 20
"""Sent again and again, as the baseline's."""


async def take(stream: Stream) -> None:
    """Serve one transfer: its length, our key, its box, then its pieces."""
    memory = payload_memory(int.from_bytes(await stream.receive()))
    for at in range(0, len(memory), _PAGE_BYTES):
        memory[at] = 1
    key = SealKey.generate()
    await stream.send(key.public_key)
    opener = key.open_request(HEADER, await stream.receive()).opener
    await stream.send(b"ready")
    written = 0
    while not opener.finished:
        message = decode_message(await stream.receive())
        assert isinstance(message, Input)
        written += opener.open_into(message.ciphertext, memory[written:], message.final)
        del message  # its memory takes the next piece
    await stream.send(b"taken")
    await stream.aclose()


async def send(stream: Stream, megabytes: int) -> float:
    """Seconds from the first piece until all is open at the other end."""
    size = megabytes << 20
    source = memoryview(os.urandom(min(size, _SOURCE_BYTES)))
    stream.expect_bulk(size)
    await stream.send(size.to_bytes(8))
    request = seal_request(bytes(await stream.receive()), HEADER)
    await stream.send(request.box)
    await stream.receive()
    job_id = JobId(secrets.token_bytes(16))
    begun = time.perf_counter()
    for ciphertext, final in sealed_pieces([source] * (size // len(source)), size, request.sealer):
        await stream.send(bulk_frame(Input(job_id, ciphertext, final), request.sealer))
    await stream.receive()
    took = time.perf_counter() - begun
    await stream.aclose()
    return took
