"""What is said before a data socket carries anything: requests, answers, invitations, greetings (data/1 §3, §4.1)."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from enum import IntEnum

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.net.external_frames import SOCKET_ID_BYTES
from cocoon_p2p.net.transport.listen import DATA_MAGIC

DATA_PROTOCOL = "/cocoon/data/1"
TOKEN_BYTES = 32
KEY_BYTES = 32
INVITATION_BYTES = SOCKET_ID_BYTES + TOKEN_BYTES + KEY_BYTES
GREETING_BYTES = len(DATA_MAGIC) + TOKEN_BYTES
PROOF_BYTES = 16
_PROOF_LABEL = b"cocoon-p2p/data/1 accepted"


class Ask(IntEnum):
    """The first byte of a request. The numbers are on the wire and never change."""

    INVITE = 1
    DIAL = 2


class Answer(IntEnum):
    """The first byte of an answer; a number that is not here is a no, too."""

    YES = 0
    FULL = 1
    NOT_HERE = 2
    UNREACHABLE = 3


@dataclass(frozen=True, slots=True)
class Invitation:
    """One socket. Token and key are secrets: they show in no text."""

    socket_id: bytes
    token: bytes = field(repr=False)
    key: bytes = field(repr=False)

    @classmethod
    def new(cls) -> Invitation:
        # SPEC data/1 §3.1
        drawn = secrets.token_bytes(INVITATION_BYTES)
        return decode_invitation(drawn)

    def encode(self) -> bytes:
        return self.socket_id + self.token + self.key

    def greeting(self) -> bytes:
        """What the dialler sends first."""
        return DATA_MAGIC + self.token

    def proof(self) -> bytes:
        """What the listener answers."""
        # SPEC data/1 §4.1
        return hmac.digest(self.key, _PROOF_LABEL + self.token, "sha256")[:PROOF_BYTES]

    def is_proof(self, data: bytes) -> bool:
        return hmac.compare_digest(data, self.proof())


def decode_invitation(data: bytes) -> Invitation:
    """Raises RemoteProtocolError."""
    if len(data) != INVITATION_BYTES:
        raise RemoteProtocolError(f"an invitation has {INVITATION_BYTES} bytes, not {len(data)}", code="MALFORMED")
    key_at = SOCKET_ID_BYTES + TOKEN_BYTES
    return Invitation(data[:SOCKET_ID_BYTES], data[SOCKET_ID_BYTES:key_at], data[key_at:])


def encode_request(invitation: Invitation | None) -> bytes:
    """Without an invitation: INVITE; with one: DIAL."""
    return bytes((Ask.INVITE,)) if invitation is None else bytes((Ask.DIAL,)) + invitation.encode()


def decode_request(data: bytes) -> Invitation | None:
    """None for INVITE. Raises RemoteProtocolError."""
    # SPEC data/1 §3.2
    if data == bytes((Ask.INVITE,)):
        return None
    if data[:1] != bytes((Ask.DIAL,)):
        raise RemoteProtocolError("a request for a data socket is INVITE or DIAL", code="MALFORMED")
    return decode_invitation(data[1:])


def request_bytes(first: bytes) -> int:
    """The length of a request that begins with this byte."""
    return 1 + INVITATION_BYTES if first == bytes((Ask.DIAL,)) else 1


def decode_greeting(data: bytes) -> bytes:
    """The token. Raises RemoteProtocolError."""
    if len(data) != GREETING_BYTES or not data.startswith(DATA_MAGIC):
        raise RemoteProtocolError("no greeting of a data socket", code="MALFORMED")
    return data[len(DATA_MAGIC) :]
