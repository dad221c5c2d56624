"""Scenarios of blob/1."""

from __future__ import annotations

from typing import Any

from generator.kit import MODEL, Scenarios, draw, error, pack, sha256

MIB = 1 << 20
PIECES_MAX = (1 << 20) + 256
BITFIELD_MAX = (PIECES_MAX + 7) // 8
HASHES = b"".join(sha256(bytes([i])) for i in range(3))
LIST = bytes.fromhex("00000000 0000012c 001000ff")


def scenarios() -> Scenarios:
    found = Scenarios("blob/1")
    _questions(found)
    _answers(found)
    _pieces(found)
    _bad(found)
    _layouts(found)
    found.add("content-id", "5", "blob.content_id", {"model_id": MODEL}, sha256(b"cocoon-p2p/blob/1\0" + MODEL))
    return found


def _questions(found: Scenarios) -> None:
    for name, section, message, fields, names in (
        ("get-manifest", "4.1", "GET_MANIFEST", [1, MODEL], ("model_id",)),
        ("open", "4.3", "OPEN", [3, MODEL, False], ("model_id", "shares")),
        ("open-and-share", "4.3", "OPEN", [3, MODEL, True], ("model_id", "shares")),
        ("get-hashes", "4.6", "GET_HASHES", [6, 0, 0, 1], ("file", "first", "count")),
        ("get-hashes-most", "4.6", "GET_HASHES", [6, 255, (1 << 20) - 1, 32_768], ("file", "first", "count")),
        ("get-piece", "4.8", "GET_PIECE", [9, 0], ("piece",)),
        ("get-piece-last", "4.8", "GET_PIECE", [9, PIECES_MAX - 1], ("piece",)),
        ("cancel", "4.8", "CANCEL", [12, 300], ("piece",)),
    ):
        _both(found, name, section, (message, fields, names))


def _answers(found: Scenarios) -> None:
    for name, section, message, fields, names in (
        ("manifest", "4.2", "MANIFEST", [2, b'{"format":1}'], ("data",)),
        ("status", "4.4", "STATUS", [4, b"\xff\x01", b"\x00\x02", False], ("have", "fetching", "choked")),
        ("status-of-nothing", "4.4", "STATUS", [4, b"", b"", True], ("have", "fetching", "choked")),
        ("no-blob", "4.5", "NO_BLOB", [5, 1], ("reason",)),
        ("no-blob-full", "4.5", "NO_BLOB", [5, 2], ("reason",)),
        ("hashes", "4.7", "HASHES", [7, 3, 70_000, HASHES], ("file", "first", "hashes")),
        ("no-hashes", "4.7", "NO_HASHES", [8, 255], ("file",)),
        ("no-piece", "4.8", "NO_PIECE", [11, 128], ("piece",)),
        ("have", "4.10", "HAVE", [13, LIST], ("pieces",)),
        ("have-nothing", "4.10", "HAVE", [13, b""], ("pieces",)),
        ("fetching", "4.11", "FETCHING", [14, LIST, LIST[:4]], ("begun", "ended")),
        ("choke", "4.12", "CHOKE", [15, True], ("choked",)),
        ("unchoke", "4.12", "CHOKE", [15, False], ("choked",)),
    ):
        _both(found, name, section, (message, fields, names))
    later = {"reason": 1}
    found.message("no-blob-of-a-later-version", "4.5", pack(5, 9), "NO_BLOB", later, exact=False)


def _both(found: Scenarios, name: str, section: str, given: tuple[str, list[Any], tuple[str, ...]]) -> None:
    """The message, and the same with a field of a later version."""
    message, fields, names = given
    named = dict(zip(names, fields[1:], strict=True))
    found.message(name, section, pack(*fields), message, named)
    found.message(f"{name}-trailing-field", section, pack(*fields, "later"), message, named, exact=False)


def _pieces(found: Scenarios) -> None:
    for name, piece, data in (
        ("short", 0, b"\x07"),
        ("of-127", 127, draw("piece", 255)),
        ("of-128", 128, draw("piece", 256)),
        ("of-65535", 65_535, draw("piece", 3)),
        ("of-65536", 65_536, draw("piece", 3)),
        ("last", PIECES_MAX - 1, draw("piece", 70_000)),
    ):
        found.message(f"piece-{name}", "4.9", pack(10, piece, data), "PIECE", {"piece": piece, "data": data})
    named = {"piece": 5, "data": b"abc"}
    found.message("piece-trailing-field", "4.9", pack(10, 5, b"abc", None), "PIECE", named, exact=False)
    long_forms = b"\x93\x0a\xce\x00\x00\x00\x05\xc6\x00\x00\x00\x03abc"
    found.message("piece-in-long-forms", "4.9", long_forms, "PIECE", named, exact=False)
    longest_form = b"\x93\x0a\xcf\x00\x00\x00\x00\x00\x00\x00\x05\xc6\x00\x00\x00\x03abc"
    found.message("piece-in-the-longest-form", "4.9", longest_form, "PIECE", named, exact=False)


def _bad(found: Scenarios) -> None:
    for name, section, frame, code in (
        ("empty", "4", b"", "MALFORMED"),
        ("tag-zero", "4", pack(0), "UNKNOWN_TAG"),
        ("tag-16", "4", pack(16, 1), "UNKNOWN_TAG"),
        ("get-manifest-short-id", "4.1", pack(1, MODEL[:-1]), "MALFORMED"),
        ("manifest-text", "4.2", pack(2, "{}"), "MALFORMED"),
        ("manifest-too-long", "4.2", pack(2, bytes(262_145)), "BOUND"),
        ("open-short", "4.3", pack(3, MODEL), "MALFORMED"),
        ("open-shares-a-number", "4.3", pack(3, MODEL, 1), "MALFORMED"),
        ("status-short", "4.4", pack(4, b"\x01", b""), "MALFORMED"),
        ("status-have-too-long", "4.4", pack(4, bytes(BITFIELD_MAX + 1), b"", False), "BOUND"),
        ("status-fetching-too-long", "4.4", pack(4, b"", bytes(BITFIELD_MAX + 1), False), "BOUND"),
        ("no-blob-negative", "4.5", pack(5, -1), "BOUND"),
        ("get-hashes-of-file-256", "4.6", pack(6, 256, 0, 1), "BOUND"),
        ("get-hashes-from-too-far", "4.6", pack(6, 0, 1 << 20, 1), "BOUND"),
        ("get-hashes-of-none", "4.6", pack(6, 0, 0, 0), "BOUND"),
        ("get-hashes-of-too-many", "4.6", pack(6, 0, 0, 32_769), "BOUND"),
        ("hashes-empty", "4.7", pack(7, 0, 0, b""), "MALFORMED"),
        ("hashes-and-a-half", "4.7", pack(7, 0, 0, HASHES[:-1]), "MALFORMED"),
        ("hashes-too-many", "4.7", pack(7, 0, 0, bytes(32 * 32_769)), "BOUND"),
        ("get-piece-too-far", "4.8", pack(9, PIECES_MAX), "BOUND"),
        ("get-piece-negative", "4.8", pack(9, -1), "BOUND"),
        ("get-piece-a-boolean", "4.8", pack(9, True), "MALFORMED"),
        ("piece-empty", "4.9", pack(10, 0, b""), "BOUND"),
        ("piece-too-long", "4.9", pack(10, 0, bytes(MIB + 1)), "BOUND"),
        ("piece-too-far", "4.9", pack(10, PIECES_MAX, b"abcdef"), "BOUND"),
        ("piece-text", "4.9", pack(10, 0, "abcdef"), "MALFORMED"),
        ("piece-cut-short", "4.9", pack(10, 0, b"abcdef")[:-1], "MALFORMED"),
        ("piece-with-bytes-behind", "4.9", pack(10, 0, b"abcdef") + b"\x00", "MALFORMED"),
        ("have-and-a-half", "4.10", pack(13, LIST[:-1]), "MALFORMED"),
        ("have-too-many", "4.10", pack(13, bytes(4097)), "BOUND"),
        ("fetching-short", "4.11", pack(14, LIST), "MALFORMED"),
        ("fetching-and-a-half", "4.11", pack(14, b"", b"\x00"), "MALFORMED"),
        ("choke-nil", "4.12", pack(15, None), "MALFORMED"),
    ):
        found.bad(name, section, "blob.decode", frame, code)


def _layouts(found: Scenarios) -> None:
    def add(name: str, sizes: list[int], bitfield: bytes, expect: Any) -> None:
        found.add(f"pieces-{name}", "2", "blob.pieces", {"sizes": sizes, "bitfield": bitfield}, expect)

    one = {"file": 0, "index": 0, "offset": 0, "size": 1}
    add("one-byte", [1], b"\x01", {"places": [one], "set": [0]})
    add("none", [0, 0], b"", {"places": [], "set": []})
    sizes = [2 * MIB + 5, 0, MIB, 7]
    places = [
        {"file": 0, "index": 0, "offset": 0, "size": MIB},
        {"file": 0, "index": 1, "offset": MIB, "size": MIB},
        {"file": 0, "index": 2, "offset": 2 * MIB, "size": 5},
        {"file": 2, "index": 0, "offset": 0, "size": MIB},
        {"file": 3, "index": 0, "offset": 0, "size": 7},
    ]
    add("of-four-files", sizes, b"\x15", {"places": places, "set": [0, 2, 4]})
    eight = [{"file": i, "index": 0, "offset": 0, "size": 1} for i in range(9)]
    add("of-nine-files", [1] * 9, b"\x80\x01", {"places": eight, "set": [7, 8]})
    add("bit-beyond-the-last", sizes, b"\x20", error("MALFORMED"))
    add("bitfield-too-short", [1] * 9, b"\x80", error("MALFORMED"))
    add("bitfield-too-long", [1], b"\x01\x00", error("MALFORMED"))
