"""capacity/1: whether an announcement is its peer's own word. Everybody who takes one from elsewhere asks here."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from cocoon_p2p import limits
from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.sealing.signing import verify_signature
from cocoon_p2p.wire.capacity import CAPACITY_DOMAIN, SignedAnnouncement, require_under_key


class _Verified:
    """Announcements whose signatures were checked, by the hash of their bytes: the same one comes by gossip, from books,
    from the DHT and on streams. Whether one is in here changes nothing but the time that the answer takes."""

    def __init__(self, *, count_max: int, bytes_max: int) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._known: OrderedDict[bytes, tuple[SignedAnnouncement, int]] = OrderedDict()

    def get(self, digest: bytes) -> SignedAnnouncement | None:
        found = self._known.get(digest)
        return None if found is None else found[0]

    def put(self, digest: bytes, signed: SignedAnnouncement, size: int) -> None:
        self._known[digest] = (signed, size)
        self._bytes += size
        while len(self._known) > self._count_max or self._bytes > self._bytes_max:
            _, (_, gone) = self._known.popitem(last=False)
            self._bytes -= gone


_VERIFIED = _Verified(count_max=limits.VERIFIED_REMEMBERED_MAX, bytes_max=limits.VERIFIED_REMEMBERED_BYTES_MAX)


def verify_announcement(raw: bytes) -> SignedAnnouncement:
    """Well-formed and signed by the peer that it speaks of. Raises RemoteProtocolError; says nothing of its age."""
    # SPEC capacity/1 §4.2
    raw = bytes(raw)
    digest = hashlib.sha256(raw).digest()
    known = _VERIFIED.get(digest)
    if known is not None:
        return known
    signed = SignedAnnouncement.decode(raw)
    if not verify_signature(signed.announcement.peer_id, CAPACITY_DOMAIN, signed.body, signed.signature):
        raise RemoteProtocolError("the announcement's signature is not its peer's", code="SIGNATURE")
    _VERIFIED.put(digest, signed, len(raw))
    return signed


def validate_record(key: str, value: bytes) -> int:
    """The DHT's record validator: the sequence number of a valid announcement under its own peer's key."""
    signed = verify_announcement(value)
    require_under_key(signed, key)
    return signed.announcement.sequence
