"""capacity/1, the asking end: one question to one peer on a stream of its own."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.hearsay import open_announced
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.net.port import Network
from cocoon_p2p.net.rates import Buckets, Rate
from cocoon_p2p.policy.reputation import fault_of_code
from cocoon_p2p.wire.capacity import (
    CAPACITY_PROTOCOL,
    Book,
    BookEntry,
    CapacityMessage,
    GetBook,
    GetCapacity,
    GetManifest,
    Manifest,
    SignedAnnouncement,
    decode_message,
)

_BOOK_QUESTIONS = Rate(limits.BOOK_QUESTIONS_PER_PEER_S / 2, limits.BOOK_QUESTIONS_PER_PEER_BURST / 2)
"""Of each peer: half of what it allows us, whatever our clocks and the network do."""


class CapacityAsker:
    """Raises TransportError where a peer does not answer; RemoteProtocolError, and the peer loses standing, for nonsense."""

    def __init__(self, network: Network, standing: StandingKeeper) -> None:
        self._network = network
        self._standing = standing
        self._books: Buckets[PeerId] = Buckets(_BOOK_QUESTIONS)

    async def ask(self, peer: PeerId, addresses: Sequence[str], question: bytes) -> CapacityMessage:
        stream = await open_announced(self._network, peer, addresses, CAPACITY_PROTOCOL)
        try:
            with trio.fail_after(limits.DIAL_TIMEOUT_S):
                await stream.send(question)
                answer = decode_message(await stream.receive())
                await stream.aclose()
        except trio.TooSlowError:
            await stream.reset()
            text = f"peer {peer} does not answer on {CAPACITY_PROTOCOL}"
            raise TransportError(text, outcome_known=True) from None
        except RemoteProtocolError as error:
            self._standing.penalise(peer, fault_of_code(error.code))
            await stream.reset()
            raise
        except trio.Cancelled:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await stream.reset()
            raise
        return answer

    async def own_word(self, peer: PeerId, addresses: Sequence[str]) -> SignedAnnouncement | None:
        """What a peer announces itself, its signature not checked yet; None when it offers nothing."""
        answer = await self.ask(peer, addresses, GetCapacity().encode())
        its_own = isinstance(answer, SignedAnnouncement) and answer.announcement.peer_id == peer
        return answer if isinstance(answer, SignedAnnouncement) and its_own else None

    async def manifest(self, peer: PeerId, addresses: Sequence[str], model_id: ModelId) -> bytes | None:
        """A model's manifest, from a peer that offers it; None when it has none. The bytes are not verified yet."""
        answer = await self.ask(peer, addresses, GetManifest(model_id).encode())
        return answer.data if isinstance(answer, Manifest) else None

    async def book(
        self, peer: PeerId, *, model_id: ModelId | None = None, about: PeerId | None = None, count: int
    ) -> tuple[BookEntry, ...]:
        """What a peer's book says of a model, or `about` one peer; nothing of it is verified yet. () where we asked this
        peer too often already."""
        if not self._books.take(peer, trio.current_time()):
            return ()
        answer = await self.ask(peer, (), GetBook(model_id, about, min(count, limits.BOOK_ANSWER_MAX)).encode())
        return answer.entries if isinstance(answer, Book) else ()
