"""A node's view of the market: who offers what. Part of `Node`; everything it returns is JSON as it stands."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import trio

from cocoon_p2p.assembly import Parts
from cocoon_p2p.drivers.clock import unix_ms
from cocoon_p2p.ids import PeerId, Tier
from cocoon_p2p.policy.experience import expected_ms
from cocoon_p2p.proto.market import BookOffer
from cocoon_p2p.proto.market_facts import announced_ms
from cocoon_p2p.rows import Row
from cocoon_p2p.rows_market import market_rows, offer_row


class NodeMarket:
    """The part of `Node` that looks at the market."""

    _parts: Parts

    async def offers(self, model: str | None = None, *, tier: Tier | None = None) -> list[Row]:
        """What others offer: of one model (asking the network when nothing is known), or all that is known. Sorted by
        name and price."""
        offers: list[Row] = (await self.market(model, tier=tier))["offers"]
        return offers

    async def market(self, model: str | None = None, *, tier: Tier | None = None) -> Row:
        """The order book and the offers that it is made of: {"book", "offers", "version", "empty"}. "version" is another
        text whenever something else is on offer; "empty" says why there is nothing, None when there is something."""
        offers = await self._find(model)
        now_ms, latencies = unix_ms(self._parts.clock), self._latencies()
        rows = market_rows(
            offers,
            now_ms=now_ms,
            tier=tier,
            expected_ms=lambda each: self._expected_ms(each, latencies),
            row=lambda each: self._offer_row(each, now_ms, latencies),
        )
        empty = None if rows["offers"] else self._why_empty(model, tier)
        return {**rows, "version": _version(_of_tier(offers, tier)), "empty": empty}

    async def market_after(
        self, version: str, wait_s: float, model: str | None = None, *, tier: Tier | None = None
    ) -> Row:
        """The same as soon as the market's version is not `version` any more, at the latest after `wait_s`."""
        with trio.move_on_after(wait_s):
            while _version(self._known(model, tier)) == version:
                await self._parts.market.changes.wait()
        return await self.market(model, tier=tier)

    # --- what is known ---

    async def _find(self, model: str | None) -> list[BookOffer]:
        market = self._parts.market
        if model is not None:
            return await market.find(model)
        return market.offers() or await market.look_around()

    def _known(self, model: str | None, tier: Tier | None) -> list[BookOffer]:
        return _of_tier(self._parts.market.offers(model), tier)

    def _latencies(self) -> dict[PeerId, float]:
        """Milliseconds of a round trip to those that we are connected to, as measured."""
        return {peer.peer: peer.latency_s * 1000 for peer in self._parts.network.peers() if peer.latency_s is not None}

    def _expected_ms(self, each: BookOffer, latencies: Mapping[PeerId, float]) -> float | None:
        """How long a job of one unit takes there: as long as ours took, and the announced wait; before the first of ours
        what was announced, and the way."""
        ours = expected_ms(self._parts.experience.of(each.peer, each.offer.model_id), 1)
        if ours is not None:
            return ours + each.offer.queue_ms
        announced = announced_ms(each)
        return None if announced is None else announced + latencies.get(each.peer, 0.0)

    def _offer_row(self, each: BookOffer, now_ms: int, latencies: Mapping[PeerId, float]) -> Row:
        experience = self._parts.experience
        return offer_row(
            each,
            now_ms=now_ms,
            latency_ms=latencies.get(each.peer),
            reliability=experience.reliability(each.peer),
            tries=experience.of(each.peer, each.offer.model_id).tries,
            expected_ms=self._expected_ms(each, latencies),
        )

    def _why_empty(self, model: str | None, tier: Tier | None) -> Row:
        """What the reader should know about a market without offers: {"reason", "peers", "others", "own"}."""
        parts = self._parts
        peers = len(parts.network.peers())
        others = parts.market.offers()
        own = [each.name for each, _ in parts.serving.models()] if parts.serving else []
        if others:
            reason = "TIER" if tier is not None and any(_is(each, model) for each in others) else "MODEL"
        elif not peers:
            reason = "NOT_CONNECTED"
        else:
            reason = "ONLY_SELF" if own else "NOBODY_SERVES"
        return {
            "reason": reason,
            "peers": peers,
            "others": sorted({each.offer.name for each in others}),
            "own": sorted(own),
        }


def _is(each: BookOffer, model: str | None) -> bool:
    return model is None or model in (each.offer.model_id, each.offer.name)


def _of_tier(offers: Sequence[BookOffer], tier: Tier | None) -> list[BookOffer]:
    return [each for each in offers if tier is None or each.offer.price(tier) is not None]


def _version(offers: Sequence[BookOffer]) -> str:
    """A digest of all that is on offer, but for when it was announced."""
    digest = hashlib.blake2b(digest_size=8)
    for each in sorted(offers, key=lambda each: (each.peer, each.offer.model_id)):
        digest.update(repr((each.peer, each.region, each.settlement_networks, each.offer)).encode())
    return digest.hexdigest()
