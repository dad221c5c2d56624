"""invite/1: one token that a person can paste, photograph or read aloud, and another machine joins by
(protocols/invite/1/spec.md). bech32m (BIP 350) round a msgpack record: no letter that looks like another, and a typo is
found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import (
    INVITE_ADDRESS_BYTES_MAX,
    INVITE_ADDRESSES_MAX,
    INVITE_CHARS_MAX,
    NAME_CHARS_MAX,
)
from cocoon_p2p.wire import codec

INVITE_PREFIX = "cocoon1"
NETWORK_KEY_BYTES = 32
NETWORK_FINGERPRINT_BYTES = 8
_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_INDEX = {char: i for i, char in enumerate(_CHARSET)}
_CHECKSUM_CHARS = 6
_BECH32M = 0x2BC830A3
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_HRP = INVITE_PREFIX[:-1]
_HRP_EXPANDED = [ord(char) >> 5 for char in _HRP] + [0] + [ord(char) & 31 for char in _HRP]


@dataclass(frozen=True, slots=True)
class Invite:
    """Whom to dial and where. Nothing in it is secret but the network key."""

    peer_id: PeerId
    addresses: tuple[bytes, ...]
    """Binary multiaddrs without the peer's own /p2p/, the best first."""
    expires_at_ms: int = 0
    """Unix milliseconds after which it should not be used; 0: never."""
    network_name: str = ""
    """What its people call the private network."""
    network_fingerprint: bytes = b""
    """Of the private network's key, 8 bytes; empty: the public network."""
    network_key: bytes = field(default=b"", repr=False)
    """The private network's key itself, 32 bytes; empty: whoever joins has it already."""

    def encode(self) -> bytes:
        """The record, without the text's checksum."""
        return codec.pack(
            [
                1,
                codec.peer_bytes(self.peer_id),
                list(self.addresses),
                self.expires_at_ms,
                self.network_name,
                self.network_fingerprint,
                self.network_key,
            ]
        )


def encode_invite(invite: Invite) -> str:
    """The text, in lower case. Raises ValueError when it would be longer than limits.INVITE_CHARS_MAX."""
    data = _to_groups(invite.encode())
    text = INVITE_PREFIX + "".join(_CHARSET[value] for value in [*data, *_checksum(data)])
    if len(text) > INVITE_CHARS_MAX:
        raise ValueError(f"an invite of {len(text)} characters; at most {INVITE_CHARS_MAX}")
    return text


def decode_invite(text: str) -> Invite:
    """Raises RemoteProtocolError that says what is wrong with the text: MALFORMED (no invite, or one with a typo), BOUND,
    UNKNOWN_TAG (of a later version)."""
    # SPEC invite/1 §3.1
    return decode_invite_record(_from_groups(_checked_groups(text)))


def decode_invite_record(frame: bytes) -> Invite:
    """Raises RemoteProtocolError."""
    # SPEC invite/1 §3.2
    fields = codec.unpack_tagged(frame, 1, 7, "invite")
    addresses = codec.array(fields[2], "addresses", INVITE_ADDRESSES_MAX)
    if not addresses:
        codec.fail("MALFORMED", "an invite without an address")
    return Invite(
        peer_id=codec.peer_id(fields[1], "peer"),
        addresses=tuple(codec.blob(each, "address", INVITE_ADDRESS_BYTES_MAX) for each in addresses),
        expires_at_ms=codec.time_ms(fields[3], "expires_at_ms"),
        network_name=codec.text(fields[4], "network_name", NAME_CHARS_MAX),
        network_fingerprint=codec.fixed_or_empty(fields[5], "network_fingerprint", NETWORK_FINGERPRINT_BYTES),
        network_key=codec.fixed_or_empty(fields[6], "network_key", NETWORK_KEY_BYTES),
    )


def _checked_groups(text: str) -> list[int]:
    """The 5-bit groups of a text whose checksum is right, without it. Spaces and line ends, as a terminal that folded it
    leaves them, do no harm."""
    if len(text) > 2 * INVITE_CHARS_MAX:
        codec.fail("BOUND", f"an invite of {len(text)} characters; at most {INVITE_CHARS_MAX}")
    compact = "".join(text.split())
    if compact.lower() != compact and compact.upper() != compact:
        codec.fail("MALFORMED", "an invite is in small or in capital letters, never in both")
    compact = compact.lower()
    if len(compact) > INVITE_CHARS_MAX:
        codec.fail("BOUND", f"an invite of {len(compact)} characters; at most {INVITE_CHARS_MAX}")
    if not compact.startswith(INVITE_PREFIX):
        codec.fail("MALFORMED", f"an invite begins with {INVITE_PREFIX}")
    for position, char in enumerate(compact[len(INVITE_PREFIX) :], len(INVITE_PREFIX) + 1):
        if char not in _INDEX:
            codec.fail("MALFORMED", f"no invite has a {char!r} in it (character {position})")
    groups = [_INDEX[char] for char in compact[len(INVITE_PREFIX) :]]
    if len(groups) < _CHECKSUM_CHARS or _polymod([*_HRP_EXPANDED, *groups]) != _BECH32M:
        codec.fail("MALFORMED", "a character is wrong or missing: its checksum does not fit")
    return groups[:-_CHECKSUM_CHARS]


def _polymod(values: Iterable[int]) -> int:
    """BIP 173's checksum of a sequence of 5-bit values."""
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for i, generator in enumerate(_GENERATOR):
            check ^= generator if top >> i & 1 else 0
    return check


def _checksum(groups: Sequence[int]) -> list[int]:
    value = _polymod([*_HRP_EXPANDED, *groups, *[0] * _CHECKSUM_CHARS]) ^ _BECH32M
    return [value >> 5 * (_CHECKSUM_CHARS - 1 - i) & 31 for i in range(_CHECKSUM_CHARS)]


def _to_groups(data: bytes) -> list[int]:
    """Eight bits to five, the last group filled with zeros."""
    count = (len(data) * 8 + 4) // 5
    number = int.from_bytes(data) << count * 5 - len(data) * 8
    return [number >> 5 * (count - 1 - i) & 31 for i in range(count)]


def _from_groups(groups: Sequence[int]) -> bytes:
    size = len(groups) * 5 // 8
    filling = len(groups) * 5 - size * 8
    number = 0
    for group in groups:
        number = number << 5 | group
    if filling >= 5 or number & (1 << filling) - 1:
        codec.fail("MALFORMED", "an invite whose last character stands for nothing")
    return (number >> filling).to_bytes(size)
