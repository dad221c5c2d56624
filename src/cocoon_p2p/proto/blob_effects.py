"""What the machines of blob/1 want done; the drivers carry it out in order."""

from __future__ import annotations

from dataclasses import dataclass

from cocoon_p2p.ids import PeerId
from cocoon_p2p.wire.blob import Answer, Question
from cocoon_p2p.wire.codec import Bytes


@dataclass(frozen=True, slots=True)
class Ask:
    """Send this on the stream to a holder."""

    peer: PeerId
    message: Question


@dataclass(frozen=True, slots=True)
class CheckHashes:
    """Whether these, all of a file's, make the digest in the manifest: `BlobFetch.hashes_checked` hears it."""

    peer: PeerId
    file: int
    hashes: bytes


@dataclass(frozen=True, slots=True)
class CheckPiece:
    """Whether this is the piece; if it is, keep it: `BlobFetch.piece_checked` hears it."""

    peer: PeerId
    piece: int
    data: Bytes


@dataclass(frozen=True, slots=True)
class Leave:
    """Close the stream to a holder. `fault`: the code of what it did wrong, "" for nothing."""

    peer: PeerId
    fault: str
    why: str


@dataclass(frozen=True, slots=True)
class Changed:
    """What those who fetch from us should hear."""

    have: tuple[int, ...]
    """Pieces that are here now."""
    begun: tuple[int, ...]
    """Asked for outside of the local network."""
    ended: tuple[int, ...]
    """Not any more."""


@dataclass(frozen=True, slots=True)
class Done:
    """All pieces are here."""


FetchEffect = Ask | CheckHashes | CheckPiece | Leave | Changed | Done


@dataclass(frozen=True, slots=True)
class Tell:
    """Send this to the fetcher of a session."""

    session: int
    message: Answer


@dataclass(frozen=True, slots=True)
class TellHashes:
    """Answer with the hashes of a file's pieces, or that they are not here."""

    session: int
    file: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class SendPieces:
    """There are pieces to be sent in this session: `BlobServe.next_piece` tells which."""

    session: int


@dataclass(frozen=True, slots=True)
class Found:
    """A peer on the local network fetches this model, too, and has what it gets for others."""

    session: int


ServeEffect = Tell | TellHashes | SendPieces | Found
