"""Private networks: the cipher's published vectors, the key's file, and pipes between those who have the key and not."""

from __future__ import annotations

import random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from secure_pairs import ScriptedPipe, chunks, handshake, pipes_are_closed, read_exactly, receive_exactly, tcp_pipes

from cocoon_p2p.net.transport.pipe import Pipe, finishes_sends
from cocoon_p2p.net.transport.private import (
    NONCE_BYTES,
    PrivatePipe,
    format_network_key,
    generate_network_key,
    hsalsa20,
    network_key_fingerprint,
    parse_network_key,
    xsalsa20,
)

__all__ = ["pipes_are_closed"]

PATIENCE_S = 10.0
KEY = bytes(range(32))
RANDOM = random.Random(3)


# --- the cipher ------------------------------------------------------------------------------------------------------


def test_hsalsa20_of_the_paper() -> None:
    """ "Cryptography in NaCl" (https://cr.yp.to/highspeed/naclcrypto-20090310.pdf), sections 8 (first key) and 9."""
    shared = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    first = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
    second = bytes.fromhex("dc908dda0b9344a953629b733820778880f3ceb421bb61b91cbd4c3e66256ce4")
    assert hsalsa20(shared, bytes(16)) == first
    assert hsalsa20(first, bytes.fromhex("69696ee955b62b73cd62bda875fc73d6")) == second


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"Hello world!", "002d4513843fc240c401e541"),
        (
            bytes(64),
            "4848297feb1fb52fb66d81609bd547fabcbe7026edc8b5e5e449d088bfa69c08"
            "8f5d8da1d791267c2c195a7f8cae9c4b4050d08ce6d3a151ec265f3a58e47648",
        ),
    ],
)
def test_xsalsa20_as_go_has_it(data: bytes, expected: str) -> None:
    """golang.org/x/crypto/salsa20, which go-libp2p's protector uses: salsa20_test.go."""
    cipher = xsalsa20(b"this is 32-byte key for xsalsa20", b"24-byte nonce for xsalsa")
    assert cipher(data).hex() == expected


@given(st.binary(max_size=500), st.lists(st.integers(0, 70), max_size=10))
@settings(deadline=None)
def test_the_cipher_goes_on_from_call_to_call(data: bytes, cuts: list[int]) -> None:
    nonce = bytes(NONCE_BYTES)
    whole = xsalsa20(KEY, nonce)(data)
    piecewise = xsalsa20(KEY, nonce)
    assert b"".join(map(piecewise, chunks(data, cuts))) == whole
    assert xsalsa20(KEY, nonce)(whole) == data


# --- the key's file --------------------------------------------------------------------------------------------------


def test_the_key_file() -> None:
    text = format_network_key(KEY)
    assert text == f"/key/swarm/psk/1.0.0/\n/base16/\n{KEY.hex()}\n"
    assert parse_network_key(text) == KEY
    assert parse_network_key(text.replace("\n", "\r\n").upper().replace("/KEY/SWARM/PSK/1.0.0/", "/key/swarm/psk/1.0.0/")
                             .replace("/BASE16/", "/base16/")) == KEY  # fmt: skip
    in_base64 = "/key/swarm/psk/1.0.0/\n/base64/\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
    assert parse_network_key(in_base64) == KEY
    assert len(generate_network_key()) == 32
    assert generate_network_key() != generate_network_key()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "first line"),
        (KEY.hex(), "first line"),
        ("/key/swarm/psk/2.0.0/\n/base16/\n" + KEY.hex(), "first line"),
        ("/key/swarm/psk/1.0.0/\n", "three lines"),
        ("/key/swarm/psk/1.0.0/\n/bin/\n" + KEY.hex(), "three lines"),
        ("/key/swarm/psk/1.0.0/\n/base16/\n" + KEY.hex() + "\nmore", "three lines"),
        ("/key/swarm/psk/1.0.0/\n/base16/\n" + "zz" * 32, "not base16"),
        ("/key/swarm/psk/1.0.0/\n/base64/\n" + "=" * 32, "not base64"),
        ("/key/swarm/psk/1.0.0/\n/base16/\n" + "ab" * 31, "31"),
    ],
)
def test_other_files_are_refused_without_showing_their_content(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        parse_network_key(text)
    assert KEY.hex() not in str(caught.value)
    assert "zz" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_fingerprint_tells_networks_apart_and_nothing_else() -> None:
    assert network_key_fingerprint(KEY) == network_key_fingerprint(bytes(KEY))
    assert len(network_key_fingerprint(KEY)) == 16
    assert network_key_fingerprint(KEY) != network_key_fingerprint(generate_network_key())
    assert network_key_fingerprint(KEY) not in KEY.hex()


# --- pipes -----------------------------------------------------------------------------------------------------------


async def carry(sender: Pipe, receiver: Pipe, data: bytes) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send_all, data)
        assert await read_exactly(receiver, len(data)) == data


@pytest.mark.parametrize("size", [1, 100, 500_000])
async def test_bytes_both_ways(size: int) -> None:
    below, other = tcp_pipes()
    near, far = PrivatePipe(below, KEY), PrivatePipe(other, KEY)
    assert (near.address, near.transport, near.relayed) == (below.address, "tcp", False)
    assert finishes_sends(near)
    with trio.fail_after(PATIENCE_S):
        for _ in range(2):
            await carry(near, far, RANDOM.randbytes(size))
            await carry(far, near, RANDOM.randbytes(size))


async def test_the_wire_is_24_bytes_and_then_the_stream_under_them() -> None:
    below = ScriptedPipe()
    pipe = PrivatePipe(below, KEY)
    await pipe.send_all(b"first")
    assert pipe.send_now(b"second") == 6
    nonce, rest = bytes(below.sent[:NONCE_BYTES]), bytes(below.sent[NONCE_BYTES:])
    assert xsalsa20(KEY, nonce)(rest) == b"firstsecond"
    assert bytes(NONCE_BYTES) != nonce


async def test_the_nonce_can_go_first() -> None:
    below = ScriptedPipe(takes_now=10)
    pipe = PrivatePipe(below, KEY)
    await pipe.send_nonce()
    assert len(below.sent) == NONCE_BYTES
    await pipe.send_all(b"abc")
    assert xsalsa20(KEY, bytes(below.sent[:NONCE_BYTES]))(below.sent[NONCE_BYTES:]) == b"abc"


@given(st.binary(min_size=1, max_size=300), st.integers(0, 40), st.lists(st.integers(1, 30), max_size=20))
@settings(max_examples=60, deadline=None)
def test_however_little_the_system_takes_the_stream_is_the_same(data: bytes, takes: int, cuts: list[int]) -> None:
    async def main() -> None:
        below = ScriptedPipe(takes_now=takes)
        pipe = PrivatePipe(below, KEY)
        for piece in chunks(data, cuts):
            if piece:
                taken = pipe.send_now(piece)
                taken += pipe.send_now(piece[taken:]) if taken < len(piece) else 0
                if taken < len(piece):
                    await pipe.send_all(piece[taken:])
        receiver = PrivatePipe(ScriptedPipe(chunks(bytes(below.sent), cuts)), KEY)
        assert await read_exactly(receiver, len(data)) == data
        assert await receiver.receive_into(memoryview(bytearray(1))) == 0

    trio.run(main)


async def test_an_end_within_the_nonce_is_an_end() -> None:
    pipe = PrivatePipe(ScriptedPipe([b"short"]), KEY)
    assert await pipe.receive_into(memoryview(bytearray(10))) == 0


async def test_another_key_reads_garbage() -> None:
    below, other = tcp_pipes()
    near, far = PrivatePipe(below, KEY), PrivatePipe(other, generate_network_key())
    with trio.fail_after(PATIENCE_S):
        await near.send_all(b"a secret of sixteen bytes or more")
        room = memoryview(bytearray(100))
        size = await far.receive_into(room)
    assert b"secret" not in bytes(room[:size])


async def test_noise_within_a_private_network() -> None:
    data = RANDOM.randbytes(2_000_000)
    below, other = tcp_pipes(buffer_bytes=8192)
    with trio.fail_after(PATIENCE_S):
        near, far = await handshake(PrivatePipe(below, KEY), PrivatePipe(other, KEY))
        for sender, receiver in ((near, far), (far, near)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.send, data)
                assert await receive_exactly(receiver, len(data)) == data


def test_the_key_does_not_show() -> None:
    pipe = PrivatePipe(ScriptedPipe(), KEY)
    assert KEY.hex() not in repr(pipe)
    assert repr(KEY) not in repr(pipe)


async def test_the_library_of_0_8_1_speaks_another_protocol() -> None:
    """py-libp2p's PskConn sends 8 bytes and uses plain Salsa20, where the specification, go, js and rust have 24 bytes and
    XSalsa20: no program but itself understands it. When this fails, test against it."""
    from libp2p.security.pnet.psk_conn import PskConn

    class Raw:
        def __init__(self) -> None:
            self.sent: list[bytes] = []

        async def write(self, data: bytes) -> None:
            self.sent.append(data)

    raw = Raw()
    await PskConn(raw, KEY.hex()).write(b"hello")
    assert len(raw.sent[0]) == 8
