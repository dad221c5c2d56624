"""What all scenarios share: keys, ids, msgpack, and the form of a scenario. Written anew, without cocoon_p2p."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

JSON = dict[str, Any]
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def draw(what: str, size: int = 32) -> bytes:
    """Bytes that look random and are the same every time."""
    return hashlib.shake_256(b"cocoon-p2p vectors: " + what.encode()).digest(size)


def pack(*fields: Any) -> bytes:
    return msgpack.packb(list(fields), use_bin_type=True)  # type: ignore[no-any-return]


def base58(data: bytes) -> str:
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = ALPHABET[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


@dataclass(frozen=True)
class Party:
    """A peer of the vectors, its key drawn from its name."""

    name: str
    seed: bytes = field(init=False)
    public_key: bytes = field(init=False)
    multihash: bytes = field(init=False)
    peer_id: str = field(init=False)

    def __post_init__(self) -> None:
        seed = draw("seed of " + self.name)
        public_key = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        multihash = bytes.fromhex("002408011220") + public_key
        for name, value in (
            ("seed", seed), ("public_key", public_key), ("multihash", multihash), ("peer_id", base58(multihash)),
        ):  # fmt: skip
            object.__setattr__(self, name, value)

    def sign_raw(self, message: bytes) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(message)

    def sign(self, domain: str, body: bytes) -> bytes:
        return self.sign_raw(domain.encode() + b"\0" + body)


PROVIDER = Party("provider")
CLIENT = Party("client")
STRANGER = Party("stranger")
MODEL = draw("model")
JOB = draw("job", 16)
NOW_MS = 1_760_000_000_000


def error(code: str) -> JSON:
    return {"error": code}


class Scenarios:
    """The scenarios of one specification, by name."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.by_name: dict[str, JSON] = {}

    def add(self, name: str, section: str, operation: str, given: JSON, expect: Any) -> None:
        assert name not in self.by_name, name
        self.by_name[name] = {
            "name": name,
            "spec": f"{self.folder} §{section}",
            "input": {"operation": operation, **{key: _plain(value) for key, value in given.items()}},
            "expect": _plain(expect),
        }

    def good(self, name: str, section: str, operation: str, frame: bytes, fields: JSON, *, exact: bool = True) -> None:
        """A frame that is read as these fields; `exact`: encoding them gives the frame again."""
        self.add(name, section, operation, {"frame": frame}, {"fields": fields, "exact": exact})

    def message(self, name: str, section: str, frame: bytes, message: str, fields: JSON, *, exact: bool = True) -> None:
        operation = self.folder.split("/")[0] + ".decode"
        expect = {"message": message, "fields": fields, "exact": exact}
        self.add(name, section, operation, {"frame": frame}, expect)

    def bad(self, name: str, section: str, operation: str, frame: bytes, code: str) -> None:
        self.add(name, section, operation, {"frame": frame}, error(code))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def replaced(fields: list[Any], index: int, value: Any) -> bytes:
    """The packed fields, one of them another."""
    return pack(*[value if i == index else entry for i, entry in enumerate(fields)])
