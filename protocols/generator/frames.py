"""Scenarios of answers that come piece by piece: the frames of seal/1 §6.4, and the messages of job/1 §3.14 to §3.17."""

from __future__ import annotations

import json
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from generator.kit import JOB, JSON, Scenarios, draw, error

PIECES = [
    {"t": [791], "s": "The", "n": [12, 0]},
    {"t": [4062, 374], "s": " sky is", "l": [-120_000, None], "p": [[[4062, " sky", -120_000]], []]},
    {"t": [], "s": " grün 🌿" * 9},
    {"t": [128_009], "s": ".", "f": "stop"},
]

MESSAGES: dict[str, tuple[str, tuple[str, ...], list[Any]]] = {
    "STREAM_HEAD": (
        "3.14",
        ("response_header", "prompt_items", "queue_us"),
        [14, JOB, draw("response header", 54), 412, 1200],
    ),
    "FRAME": ("3.15", ("ciphertext", "items", "final"), [15, JOB, draw("frame", 80), 415, False]),
    "PAY": ("3.16", ("payment", "frames", "items", "paid"), [16, JOB, draw("payment", 150), 9, 444, 508]),
    "STOP": ("3.17", (), [17, JOB]),
}
VARIANTS: tuple[tuple[str, str, JSON], ...] = (
    ("stream-head-largest", "STREAM_HEAD", {"prompt_items": 1 << 20, "queue_us": (1 << 63) - 1}),
    ("stream-head-shortest", "STREAM_HEAD", {"response_header": b"", "prompt_items": 1, "queue_us": 0}),
    ("frame-final", "FRAME", {"ciphertext": draw("frame", 64), "final": True}),
    ("frame-largest-count", "FRAME", {"items": 1 << 20}),
    ("pay-nothing-new", "PAY", {"payment": b""}),
    ("pay-before-the-first-frame", "PAY", {"frames": 0, "items": 0}),
    ("pay-largest", "PAY", {"payment": draw("p", 1024), "frames": (1 << 20) + 1, "items": 1 << 20, "paid": 1 << 20}),
)
WRONG: dict[str, list[tuple[str, int, Any, str]]] = {
    "STREAM_HEAD": [
        ("header-too-long", 2, bytes(1025), "BOUND"), ("no-prompt", 3, 0, "BOUND"),
        ("prompt-too-long", 3, (1 << 20) + 1, "BOUND"), ("prompt-float", 3, 1.0, "MALFORMED"), ("time-negative", 4, -1, "BOUND"),
    ],
    "FRAME": [
        ("too-short", 2, bytes(63), "BOUND"), ("text", 2, "x" * 80, "MALFORMED"),
        ("items-zero", 3, 0, "BOUND"), ("items-too-many", 3, (1 << 20) + 1, "BOUND"), ("items-boolean", 3, True, "MALFORMED"),
        ("final-an-integer", 4, 1, "MALFORMED"),
    ],
    "PAY": [
        ("payment-too-long", 2, bytes(1025), "BOUND"), ("payment-nil", 2, None, "MALFORMED"), ("frames-negative", 3, -1, "BOUND"),
        ("frames-too-many", 3, (1 << 20) + 2, "BOUND"), ("items-negative", 4, -1, "BOUND"),
        ("items-too-many", 4, (1 << 20) + 1, "BOUND"), ("paid-zero", 5, 0, "BOUND"), ("paid-too-much", 5, (1 << 20) + 1, "BOUND"),
        ("paid-float", 5, 64.0, "MALFORMED"),
    ],
}  # fmt: skip


def padded(piece: bytes) -> bytes:
    plaintext = len(piece).to_bytes(4, "big") + piece
    return plaintext + bytes(-len(plaintext) % 64)


def sealed(key: bytes, index: int, plaintext: bytes, final: bool) -> bytes:
    return AESGCM(key).encrypt(index.to_bytes(11, "big") + (b"\1" if final else b"\0"), plaintext, b"")


def frames_of(key: bytes, pieces: list[bytes]) -> list[bytes]:
    last = len(pieces) - 1
    return [sealed(key, i, padded(piece), i == last) for i, piece in enumerate(pieces)]


def add_to(found: Scenarios) -> None:
    """To seal/1."""
    key = draw("frames key")
    pieces = [json.dumps(piece, ensure_ascii=False, separators=(",", ":")).encode() for piece in PIECES]
    honest = frames_of(key, pieces)
    found.add("frames", "6.4", "seal.frames", {"key": key, "pieces": pieces}, honest)
    plain: JSON = {"key": None, "pieces": pieces}
    found.add("frames-tier-open", "6.4", "seal.frames", plain, [padded(piece) for piece in pieces])
    for size in (1, 59, 60, 61, 124):
        piece = draw("piece", size)
        found.add(f"frames-of-{size}", "6.4", "seal.frames", {"key": key, "pieces": [piece]}, frames_of(key, [piece]))

    def opened(name: str, expect: Any, frames: list[tuple[bytes, bool]], *, key: bytes | None = key) -> None:
        found.add(f"frames-opened-{name}", "6.4", "seal.open_frames", {"key": key, "frames": frames}, expect)

    right = [(frame, i == len(honest) - 1) for i, frame in enumerate(honest)]
    bad = error("ENVELOPE")
    opened("in-order", pieces, right)
    opened(
        "tier-open", pieces, [(padded(piece), final) for piece, (_, final) in zip(pieces, right, strict=True)], key=None
    )
    opened("swapped", bad, [right[1], right[0], *right[2:]])
    opened("repeated", bad, [right[0], *right])
    opened("skipped", bad, [right[0], *right[2:]])
    opened("truncated", bad, right[:-1])
    opened("final-not-said", bad, [*right[:-1], (honest[-1], False)])
    opened("final-too-early", bad, [*right[:2], (honest[2], True)])
    opened("after-the-final", bad, [*right, (sealed(key, 4, padded(b"x"), False), False)])
    opened("altered", bad, [(bytes([honest[0][0] ^ 1]) + honest[0][1:], False), *right[1:]])
    opened("altered-tag", bad, [(honest[0][:-1] + bytes([honest[0][-1] ^ 1]), False), *right[1:]])
    opened("another-key", bad, right, key=draw("another frames key"))
    for name, plaintext in (
        ("no-padding", padded(b"x" * 30)[:34]),
        ("more-padding-than-needed", padded(b"x") + bytes(64)),
        ("padding-not-zero", padded(b"x")[:-1] + b"\1"),
        ("piece-empty", bytes(64)),
        ("piece-longer-than-the-frame", (61).to_bytes(4, "big") + b"x" * 60),
        ("length-little-endian", (1).to_bytes(4, "little") + b"x" + bytes(59)),
    ):
        opened(name, bad, [(sealed(key, 0, plaintext, True), True)])
        opened(f"{name}-tier-open", bad, [(plaintext, True)], key=None)
