"""The offers of a model as the candidates of a choice: with what we know of each provider, and what it has of ours now."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.drivers.experience import ExperienceKeeper
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.limits import CONSIDERED_MAX
from cocoon_p2p.net.port import ConnectedPeer, Network
from cocoon_p2p.policy.experience import expected_ms, reliability
from cocoon_p2p.policy.selection import Candidate
from cocoon_p2p.policy.subnets import subnet_of
from cocoon_p2p.proto.market import BookOffer


class Candidates:
    """Of one node, for all its orders."""

    def __init__(self, network: Network, experience: ExperienceKeeper, clock: Clock, rng: random.Random) -> None:
        self._network = network
        self._experience = experience
        self._clock = clock
        self._rng = rng
        self._in_flight: Counter[PeerId] = Counter()

    @contextmanager
    def in_flight(self, peer: PeerId) -> Iterator[None]:
        """While a job of ours is there."""
        self._in_flight[peer] += 1
        try:
            yield
        finally:
            self._in_flight[peer] -= 1
            if not self._in_flight[peer]:
                del self._in_flight[peer]

    def has_ours(self, peer: PeerId) -> bool:
        """Whether jobs of ours are there at this moment."""
        return peer in self._in_flight

    def sample(self, offers: Sequence[BookOffer]) -> list[BookOffer]:
        """So many as one choice looks at: however many strangers there are, those that we know are among them."""
        if len(offers) <= CONSIDERED_MAX:
            return list(offers)
        known = [each for each in offers if self._experience.knows(each.peer)]
        strangers = [each for each in offers if not self._experience.knows(each.peer)]
        return [
            each
            for part in (known, strangers)
            for each in (self._rng.sample(part, CONSIDERED_MAX) if len(part) > CONSIDERED_MAX else part)
        ]

    def of(self, offers: Sequence[BookOffer], model_id: ModelId, items: int) -> dict[PeerId, Candidate]:
        """By provider."""
        wanted = {each.peer for each in offers}
        links = {link.peer: link for link in self._network.peers() if link.peer in wanted}
        now_ms = unix_ms(self._clock)
        return {each.peer: self._candidate(each, links.get(each.peer), model_id, items, now_ms) for each in offers}

    def _candidate(
        self, book: BookOffer, link: ConnectedPeer | None, model_id: ModelId, items: int, now_ms: int
    ) -> Candidate:
        offer = book.offer
        known = self._experience.of(book.peer, model_id)
        latency_s = None if link is None else link.latency_s
        return Candidate(
            peer_id=book.peer,
            prices={price.tier: (price.base, price.per_unit) for price in offer.prices},
            items_max=offer.items_max,
            input_bytes_max=offer.input_bytes_max,
            networks=frozenset(book.settlement_networks),
            queue_ms=offer.queue_ms,
            item_us=offer.item_us if known.item_us is None else round(known.item_us),
            latency_ms=None if latency_s is None else latency_s * 1000,
            reliability=reliability(known, now_ms),
            subnet=subnet_of(_direct(book, link)),
            tries=known.tries,
            expected_ms=expected_ms(known, items),
            in_flight=self._in_flight[book.peer],
            slots_free=offer.slots_free,
        )


def _direct(book: BookOffer, link: ConnectedPeer | None) -> Sequence[str]:
    """Where the machine itself is: as we reached it, which is no matter of words, else as it announced. A relay's address
    says nothing of who is behind it."""
    if link is not None and not link.relayed and link.address:
        return (link.address,)
    return [address for address in book.addresses if "/p2p-circuit" not in address]
