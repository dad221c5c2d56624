"""Private networks: libp2p's protector with a key that all machines of the network share.

    each end → the other: 24 random bytes, then everything as the XSalsa20 stream under key and those bytes

https://github.com/libp2p/specs/blob/master/pnet/Private-Networks-PSK-V1.md. It stands below everything else (in a
WebSocket: within it), so that strangers meet noise. It keeps strangers out and authenticates nothing: Noise follows.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import struct
from collections.abc import Callable

from Crypto.Cipher import Salsa20

from cocoon_p2p.errors import TransportError
from cocoon_p2p.net.port import Bytes
from cocoon_p2p.net.transport.coded import CodedPipe
from cocoon_p2p.net.transport.pipe import Pipe

NETWORK_KEY_BYTES = 32
NONCE_BYTES = 24
_FILE_HEAD = "/key/swarm/psk/1.0.0/"
_SIGMA = struct.unpack("<4I", b"expand 32-byte k")
_WORD = 0xFFFFFFFF


class PrivatePipe(CodedPipe):
    """A pipe between machines that have the same key. Between others it carries garbage both ways.

    Our nonce goes out with the first bytes that are sent, or by `send_nonce`.
    """

    def __init__(self, below: Pipe, key: bytes) -> None:
        super().__init__(below, below.address)
        self._key = key
        self._lead = secrets.token_bytes(NONCE_BYTES)
        self._encrypt = xsalsa20(key, self._lead)
        self._decrypt: Callable[[Bytes], bytes] | None = None
        self._nonce_received = b""

    def __repr__(self) -> str:
        return f"<PrivatePipe over {self._below!r}>"

    async def send_nonce(self) -> None:
        """For the end that listens first: some others say nothing before they have seen it."""
        lead, self._lead = self._lead, b""
        taken = self._below.send_now(lead)
        if taken < len(lead):
            await self._below.send_all(lead[taken:])

    async def receive_into(self, buffer: memoryview) -> int:
        while self._decrypt is None:
            with memoryview(bytearray(NONCE_BYTES - len(self._nonce_received))) as missing:
                size = await self._below.receive_into(missing)
                self._nonce_received += missing[:size]
            if not size:
                return 0
            if len(self._nonce_received) == NONCE_BYTES:
                self._decrypt = xsalsa20(self._key, self._nonce_received)
        size = await self._below.receive_into(buffer)
        buffer[:size] = self._decrypt(buffer[:size])
        return size

    def _encode(self, data: Bytes) -> bytes:
        return self._encrypt(data)


def not_in_network() -> TransportError:
    return TransportError(
        "the other end is not in our private network, or speaks something else",
        outcome_known=True,
        code="NOT_IN_NETWORK",
    )


# --- the key ---------------------------------------------------------------------------------------------------------


def generate_network_key() -> bytes:
    return secrets.token_bytes(NETWORK_KEY_BYTES)


def parse_network_key(text: str) -> bytes:
    """The key of a file as go-libp2p, js-libp2p and IPFS write it (swarm.key). Raises ValueError."""
    lines = [line.strip() for line in text.strip().splitlines()]
    if not lines or lines[0] != _FILE_HEAD:
        raise ValueError(f"no network key: the first line of one is {_FILE_HEAD}")
    if len(lines) != 3 or lines[1] not in ("/base16/", "/base64/"):
        raise ValueError("a network key has three lines, the second /base16/ or /base64/, the third the key")
    try:
        key = bytes.fromhex(lines[2]) if lines[1] == "/base16/" else base64.b64decode(lines[2], validate=True)
    except (ValueError, binascii.Error):
        raise ValueError(f"the third line of the network key is not {lines[1].strip('/')}") from None  # says no secret
    if len(key) != NETWORK_KEY_BYTES:
        raise ValueError(f"a network key has {NETWORK_KEY_BYTES} bytes, this one {len(key)}")
    return key


def format_network_key(key: bytes) -> str:
    """The content of a swarm.key file."""
    return f"{_FILE_HEAD}\n/base16/\n{key.hex()}\n"


def network_key_fingerprint(key: bytes) -> str:
    """16 hexadecimal digits by which people tell networks apart. Says nothing of the key."""
    return hashlib.sha256(b"cocoon private network fingerprint\x00" + key).hexdigest()[:16]


# --- XSalsa20 --------------------------------------------------------------------------------------------------------


def xsalsa20(key: bytes, nonce: bytes) -> Callable[[Bytes], bytes]:
    """The cipher that goes on from call to call; it encrypts and decrypts alike.

    Bernstein, "Extending the Salsa20 nonce" (https://cr.yp.to/snuffle/xsalsa-20110204.pdf).
    """
    cipher = Salsa20.new(key=hsalsa20(key, nonce[:16]), nonce=nonce[16:])

    def apply(data: Bytes) -> bytes:
        encrypted: bytes = cipher.encrypt(data)
        return encrypted

    return apply


def hsalsa20(key: bytes, block: bytes) -> bytes:
    """The 20 rounds of Salsa20 without the final addition (section 2 of the paper)."""
    k = struct.unpack("<8I", key)
    n = struct.unpack("<4I", block)
    x = [_SIGMA[0], *k[:4], _SIGMA[1], *n, _SIGMA[2], *k[4:], _SIGMA[3]]
    for _ in range(10):
        for a, b, c, d in ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11)):
            _quarter_round(x, a, b, c, d)
        for a, b, c, d in ((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14)):
            _quarter_round(x, a, b, c, d)
    return struct.pack("<8I", *(x[i] for i in (0, 5, 10, 15, 6, 7, 8, 9)))


def _quarter_round(x: list[int], a: int, b: int, c: int, d: int) -> None:
    for target, first, second, turn in ((b, a, d, 7), (c, b, a, 9), (d, c, b, 13), (a, d, c, 18)):
        total = (x[first] + x[second]) & _WORD
        x[target] ^= (total << turn | total >> (32 - turn)) & _WORD
