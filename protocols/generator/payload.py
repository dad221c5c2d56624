"""Scenarios of job/1 §4, the payload container."""

from __future__ import annotations

import struct
from typing import Any

from generator.kit import Scenarios, error

OPERATION = "payload.decode"
Entry = tuple[str, int, tuple[int, ...], bytes]  # name, dtype code, shape, data
DTYPES = [
    "float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "float16", "float64", "uint32", "uint64",
    "complex64", "complex128", "bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "uint4", "int4",
]  # fmt: skip
SIZES = (4, 1, 1, 2, 2, 4, 8, 0, 1, 2, 8, 4, 8, 8, 16, 2, 1, 1, 1, 1, 1, 1)


def pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 64)


def name_bytes(name: str | bytes) -> bytes:
    raw = name if isinstance(name, bytes) else name.encode()
    return bytes([len(raw)]) + raw


def head_of(entries: list[Entry], wanted: list[str], cut: int = 0) -> bytes:
    rest = b""
    for name, dtype, shape, data in entries:
        rest += name_bytes(name) + bytes([dtype, len(shape)]) + struct.pack(f"<{len(shape)}Q", *shape)
        rest += struct.pack("<Q", len(data))
    rest += b"".join(name_bytes(name) for name in wanted)
    return struct.pack("<BBHHHI", 1, 0, len(entries), len(wanted), cut, 12 + len(rest)) + rest


def container(entries: list[Entry], wanted: list[str] | None = None, cut: int = 0) -> bytes:
    return pad(head_of(entries, wanted or [], cut)) + b"".join(pad(data) for _, _, _, data in entries)


def strings(*texts: str) -> bytes:
    return b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)


def add_to(found: Scenarios) -> None:
    text: Entry = ("text", 8, (2,), strings("how do I earn?", "Überschuß – 收入"))
    matrix: Entry = ("x", 1, (2, 3), struct.pack("<6f", 0.0, -0.0, 1.5, float("inf"), 1e-45, -2.25))
    good: dict[str, tuple[list[Entry], list[str]]] = {
        "empty": ([], []),
        "text": ([text], []),
        "matrix": ([matrix], []),
        "several-and-wanted": ([matrix, text, ("mask", 7, (1, 4), struct.pack("<4q", 1, 1, 0, -1))], ["a", "sentence_embedding"]),
        "scalar": ([("s", 11, (), struct.pack("<d", 3.5))], []),
        "no-elements": ([("none", 1, (0, 384), b"")], []),
        "no-strings": ([("text", 8, (0,), b"")], []),
        "exactly-64-bytes": ([("b", 2, (64,), bytes(range(64)))], []),
        "unnamed": ([("", 2, (1,), b"\x07")], []),
        "every-dtype": (
            [(n, i + 1, (2,), strings("", "a") if n == "string" else bytes(2 * s)) for i, (n, s) in enumerate(zip(DTYPES, SIZES, strict=True))],
            [],
        ),
        "rank-16": ([("deep", 9, (1,) * 16, b"\x01")], []),
    }  # fmt: skip
    cuts = {"texts-cut": 2, "texts-cut-most": 65535}
    good |= {name: ([matrix], []) for name in cuts}
    for name, (entries, wanted) in good.items():
        cut = cuts.get(name, 0)
        raw = container(entries, wanted, cut)
        expect = {
            "tensors": [
                {"name": n, "dtype": DTYPES[d - 1], "shape": shape, "data": data} for n, d, shape, data in entries
            ],
            "wanted": wanted,
            "cut": cut,
        }
        found.add(f"payload-{name}", "4.3" if cut else "4.1", OPERATION, {"payload": raw}, expect)
    for name, raw in _broken(text, matrix).items():
        found.add(f"payload-bad-{name}", "4.2", OPERATION, {"payload": raw}, error("PAYLOAD"))


def _broken(text: Entry, matrix: Entry) -> dict[str, bytes]:
    whole = container([matrix], ["a"])

    def patched(position: int, value: bytes, of: bytes = whole) -> bytes:
        return of[:position] + value + of[position + len(value) :]

    def entry(**change: Any) -> bytes:
        names = dict(zip(("name", "dtype", "shape", "data"), matrix, strict=True)) | change
        return container([(names["name"], names["dtype"], names["shape"], names["data"])])

    head_bytes = len(head_of([matrix], ["a"]))
    strings_cut: Entry = ("text", 8, (3,), text[3])
    return {
        "nothing": b"",
        "too-short": b"\x01",
        "not-a-multiple": whole + b"\0",
        "cut-short": whole[:-64],
        "block-left-over": whole + bytes(64),
        "version": patched(0, b"\x02"),
        "reserved": patched(1, b"\x01"),
        "more-tensors-than-there-are": patched(2, b"\x02\x00"),
        "fewer-tensors-than-there-are": patched(2, b"\x00\x00"),
        "257-tensors": container([(f"t{i}", 2, (0,), b"") for i in range(257)]),
        "257-wanted": container([], [f"t{i}" for i in range(257)]),
        "head-length-too-small": patched(8, struct.pack("<I", head_bytes - 1)),
        "head-length-too-large": patched(8, struct.pack("<I", head_bytes + 1)),
        "head-length-zero": patched(8, bytes(4)),
        "head-longer-than-payload": patched(8, struct.pack("<I", 1 << 31)),
        "head-padding-not-zero": patched(head_bytes, b"\x01"),
        "data-padding-not-zero": patched(len(whole) - 1, b"\x01"),
        "unknown-dtype": entry(dtype=23),
        "dtype-zero": entry(dtype=0),
        "rank-17": entry(shape=(1,) * 16 + (6,)),
        "shape-too-large": entry(shape=(2, 4)),
        "shape-too-small": entry(shape=(2, 2)),
        "shape-overflows": entry(shape=(1 << 63, 1 << 63)),
        "name-not-utf8": patched(13, b"\xff"),
        "one-name-twice": container([matrix, matrix]),
        "data-longer-than-payload": patched(12 + 2 + 2 + 16, struct.pack("<Q", 1 << 40)),
        "strings-fewer-than-shape": container([strings_cut]) if len(text[3]) < 12 else container([("t", 8, (1 << 20,), text[3])]),
    }  # fmt: skip
