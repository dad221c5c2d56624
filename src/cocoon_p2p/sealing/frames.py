"""An answer that comes piece by piece, each sealed into a frame of its own (protocols/seal/1/spec.md §6.4).

    plaintext = u32 (big-endian) length ‖ piece ‖ zeros up to a multiple of 64
    frame i   = AES-256-GCM of it under the response key, nonce = i (11 bytes, big-endian) ‖ 1 if it is the last, else 0

Lengths are padded so that a frame does not tell its token's length; order, repetition and truncation show, as with chunks.
Without a cipher (tier open) the padded piece passes as it is.
"""

from __future__ import annotations

from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cocoon_p2p.errors import LocalProtocolError, RemoteProtocolError
from cocoon_p2p.limits import CHUNK_OVERHEAD_BYTES, FRAME_PADDING_BYTES, PIECE_BYTES_MAX

Bytes = bytes | bytearray | memoryview

_LENGTH_BYTES = 4
PIECE_IN_FRAME_BYTES_MAX = PIECE_BYTES_MAX - _LENGTH_BYTES
"""Of what `FrameSealer.seal` takes."""


def nonce_at(index: int, final: bool) -> bytes:
    """12 bytes, of the chunk or frame at this place in its stream."""
    return index.to_bytes(11) + (b"\x01" if final else b"\x00")


class FrameSealer:
    """Seals the frames of one answer, in order, to the final one."""

    __slots__ = ("_cipher", "finished", "frames")

    def __init__(self, cipher: AESGCM | None) -> None:
        self._cipher = cipher
        self.frames = 0
        """So many were sealed."""
        self.finished = False

    def seal(self, piece: Bytes, final: bool) -> bytes:
        """The next frame. Raises LocalProtocolError after the final one, and for a piece that is empty or too long."""
        # SPEC seal/1 §6.4
        if self.finished or not 0 < len(piece) <= PIECE_IN_FRAME_BYTES_MAX:
            raise LocalProtocolError("sealing after the final frame, or a piece that no frame holds")
        plaintext = len(piece).to_bytes(_LENGTH_BYTES) + bytes(piece)
        plaintext += bytes(-len(plaintext) % FRAME_PADDING_BYTES)
        nonce = nonce_at(self.frames, final)
        self.frames += 1
        self.finished = final
        return plaintext if self._cipher is None else self._cipher.encrypt(nonce, plaintext, None)


class FrameOpener:
    """Opens the frames of one answer. What is altered, out of order, repeated or comes after the final one raises
    RemoteProtocolError(code="ENVELOPE"), and so does everything after that."""

    __slots__ = ("_broken", "_cipher", "_overhead", "finished", "frames")

    def __init__(self, cipher: AESGCM | None) -> None:
        self._cipher = cipher
        self._overhead = 0 if cipher is None else CHUNK_OVERHEAD_BYTES
        self._broken = False
        self.frames = 0
        """So many were opened."""
        self.finished = False
        """The final one was: nothing was cut off."""

    def open(self, ciphertext: Bytes, final: bool) -> bytes:
        """The piece in the next frame."""
        # SPEC seal/1 §6.4
        size = len(ciphertext) - self._overhead
        if self._broken or self.finished:
            self._fail("a frame after the answer's end")
        if size % FRAME_PADDING_BYTES or not 0 < size <= PIECE_BYTES_MAX:
            self._fail("a frame of a length that none has")
        piece = self._piece_of(self._opened(ciphertext, final))
        self.frames += 1
        self.finished = final
        return piece

    def _opened(self, ciphertext: Bytes, final: bool) -> bytes:
        if self._cipher is None:
            return bytes(ciphertext)
        try:
            return self._cipher.decrypt(nonce_at(self.frames, final), bytes(ciphertext), None)
        except InvalidTag:
            self._fail(f"frame {self.frames} is altered, out of order, or not the last as it says")

    def _piece_of(self, plaintext: bytes) -> bytes:
        end = _LENGTH_BYTES + int.from_bytes(plaintext[:_LENGTH_BYTES])
        padding = plaintext[end:]
        if end == _LENGTH_BYTES or end > len(plaintext) or len(padding) >= FRAME_PADDING_BYTES or any(padding):
            self._fail("a frame whose padding is none")
        return plaintext[_LENGTH_BYTES:end]

    def _fail(self, why: str) -> NoReturn:
        self._broken = True
        raise RemoteProtocolError(f"sealed answer: {why}", code="ENVELOPE")
