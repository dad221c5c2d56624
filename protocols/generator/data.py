"""Scenarios of data/1."""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from generator.kit import Scenarios, draw, error

FRAME_BYTES_MAX = 1_114_112
INVITATION = draw("socket id")[:16] + draw("token") + draw("key")
SOCKET_ID, TOKEN, KEY = INVITATION[:16], INVITATION[16:48], INVITATION[48:]
READ = {"socket_id": SOCKET_ID, "token": TOKEN, "key": KEY}


def scenarios() -> Scenarios:
    found = Scenarios("data/1")
    _requests(found)
    _greetings(found)
    _records(found)
    _frames(found)
    return found


def _requests(found: Scenarios) -> None:
    def add(name: str, frame: bytes, expect: object) -> None:
        found.add(f"request-{name}", "3.2", "data.request", {"frame": frame}, expect)

    add("invite", b"\x01", None)
    add("dial", b"\x02" + INVITATION, READ)
    wrong = {
        "empty": b"",
        "unknown": b"\x03",
        "zero": b"\x00" + INVITATION,
        "invite-with-more": b"\x01\x00",
        "dial-alone": b"\x02",
        "dial-cut-short": b"\x02" + INVITATION[:-1],
        "dial-too-long": b"\x02" + INVITATION + b"\x00",
    }
    for name, frame in wrong.items():
        add(name, frame, error("MALFORMED"))


def _greetings(found: Scenarios) -> None:
    proof = hmac.new(KEY, b"cocoon-p2p/data/1 accepted" + TOKEN, hashlib.sha256).digest()[:16]
    given = {"invitation": INVITATION}
    found.add("greeting", "4.1", "data.greet", given, {"greeting": b"\x00CCD" + TOKEN, "answer": proof})
    found.add("greeting-read", "4.1", "data.greeting", {"frame": b"\x00CCD" + TOKEN}, TOKEN)
    wrong = {
        "cut-short": b"\x00CCD" + TOKEN[:-1],
        "too-long": b"\x00CCD" + TOKEN + b"\x00",
        "multistream": b"\x13/multistream/1.0.0\n" + bytes(16),
        "empty": b"",
    }
    for name, frame in wrong.items():
        found.add(f"greeting-{name}", "4.1", "data.greeting", {"frame": frame}, error("MALFORMED"))


def _records(found: Scenarios) -> None:
    body = b"what is not sealed is encrypted for the socket"
    for offset in (0, 1_048_592, 2**63):
        record = AESGCM(KEY).encrypt(struct.pack("!IQ", 0, offset), body, None)
        given = {"key": KEY, "offset": offset, "body": body}
        found.add(f"part-encrypted-at-{offset}", "4.2", "data.encrypt", given, record)


def _header(frame: int, kind: int, offset: int, part: int, head: int) -> bytes:
    return struct.pack("!IB16sQII", frame, kind, SOCKET_ID, offset, part, head)


def _frames(found: Scenarios) -> None:
    def add(name: str, header: bytes, expect: object) -> None:
        found.add(f"frame-{name}", "5", "data.frame", {"header": header}, expect)

    def fields(values: tuple[int, int, int, int, int], body: int) -> dict[str, object]:
        frame, kind, offset, part, head = values
        return {
            "frame_bytes": frame,
            "kind": kind,
            "socket_id": SOCKET_ID,
            "offset": offset,
            "part_bytes": part,
            "head_bytes": head,
            "body_bytes": body,
            "tail_bytes": frame - head - body,
        }

    bit = 1 << 31
    longest = FRAME_BYTES_MAX
    good = {
        "sealed": ((1_048_858, 0, 0, 1_048_832, 25), 1_048_832),
        "encrypted": ((1_048_602, 1, 2_097_664, 1_048_592, 25), 1_048_576),
        "body-only": ((65_536, 0, 7, 65_536, 0), 65_536),
        "longest": ((longest, 0, 2**63, longest, 0), longest),
        "longest-encrypted": ((longest, 1, 0, longest + 16, 0), longest),
        "most-inline": ((69_632, 0, 0, 65_536, 4096), 65_536),
        "one-byte": ((1, 1, 0, 17, 0), 1),
    }
    for name, (values, body) in good.items():
        add(name, _header(bit | values[0], *values[1:]), fields(values, body))
    bad = {
        "too-long": ("BOUND", (bit | longest + 1, 0, 0, longest, 1)),
        "longest-length": ("BOUND", (2**32 - 1, 0, 0, 65_536, 1)),
        "without-its-bit": ("MALFORMED", (65_537, 0, 0, 65_536, 1)),
        "unknown-kind": ("MALFORMED", (bit | 65_537, 2, 0, 65_536, 1)),
        "empty": ("MALFORMED", (bit, 0, 0, 0, 0)),
        "without-body": ("MALFORMED", (bit | 26, 0, 0, 0, 25)),
        "part-shorter-than-its-tag": ("MALFORMED", (bit | 26, 1, 0, 15, 10)),
        "part-of-a-tag-alone": ("MALFORMED", (bit | 26, 1, 0, 16, 10)),
        "body-longer-than-frame": ("MALFORMED", (bit | 65_536, 0, 0, 65_537, 0)),
        "body-longer-than-any": ("BOUND", (bit | 65_536, 0, 0, 2**32 - 1, 0)),
        "head-beyond-the-frame": ("MALFORMED", (bit | 65_546, 0, 0, 65_536, 11)),
        "too-much-inline": ("MALFORMED", (bit | 69_633, 0, 0, 65_536, 10)),
    }
    for name, (code, values) in bad.items():
        add(name, _header(*values), error(code))
    add("cut-short", _header(bit | 65_537, 0, 0, 65_536, 1)[:-1], error("MALFORMED"))
