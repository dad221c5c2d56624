"""What a node knows of its own health, and what a stranger finds out about another node: `cocoon-node doctor`. Part of `Node`;
what it returns as rows is JSON as it stands."""

from __future__ import annotations

import random
from collections.abc import Sequence

import trio

from cocoon_p2p.assembly import Parts
from cocoon_p2p.drivers.clock import unix_ms
from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.errors import CocoonError, ExecutionError, RemoteProtocolError, TransportError
from cocoon_p2p.execution.jail import support
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.limits import DOCTOR_PEERS_MAX, DOCTOR_PROVIDERS_MAX, DOCTOR_QUESTION_S, DOCTOR_RUN_S
from cocoon_p2p.models.canary import TAME_MAX, canary_input
from cocoon_p2p.models.manifest import Manifest
from cocoon_p2p.policy.idle import IdleRules, MachineFacts
from cocoon_p2p.proto.announcements import verify_announcement
from cocoon_p2p.rows import Row
from cocoon_p2p.tensors import Payload
from cocoon_p2p.wire.capacity import HeardBy, Offer, capacity_key, model_content_id

_NOT_THE_INPUT = ("BUSY", "LIMITS", "WORKER")
"""Codes of runs that another input would not mend."""


class NodeDoctor:
    """The part of `Node` that examines, and is examined."""

    _parts: Parts

    # --- of itself ---

    def health(self) -> Row:
        """What `status` leaves out: {"clock", "untold_rules", "offers", "no_jail"}. "untold_rules" are the idle rules whose facts this
        machine cannot tell; "offers" is what is announced at the moment; "no_jail" is why models that came from peers are not run here, or None."""
        parts = self._parts
        idling = parts.idling
        return {
            "clock": self.clock_comparison(),
            "untold_rules": untold_rules(idling.rules, idling.seen) if idling and idling.seen else [],
            "offers": [_offer(offer) for offer in parts.serving.offers()] if parts.serving else [],
            "no_jail": support().reason or None,
        }

    def clock_comparison(self) -> Row:
        """How many other clocks this machine's was compared with, how many differ, and by how much most do."""
        clocks = self._parts.market.clocks
        differ, compared = clocks.counts()
        own_error_s = clocks.own_error_s()
        return {
            "compared": compared,
            "differ": differ,
            "own_error_s": None if own_error_s is None else round(own_error_s, 1),
            "advice": clocks.advice() or None,
        }

    async def heard(self, leave_out: str | None = None) -> list[Row]:
        """Ask up to DOCTOR_PEERS_MAX of those connected longest, without `leave_out`, whether they know what this node
        announces. A row each: peer_id, knows, heard_by ("gossip" …), heard_ago_ms, error."""
        peers = sorted(self._parts.network.peers(), key=lambda each: each.connected_at)
        asked = list(dict.fromkeys(each.peer for each in peers if each.peer != leave_out))[:DOCTOR_PEERS_MAX]
        rows: dict[PeerId, Row] = {}

        async def ask(peer: PeerId) -> None:
            rows[peer] = await self._heard_by(peer)

        async with open_plain_nursery() as nursery:
            for peer in asked:
                nursery.start_soon(ask, peer)
        return [rows[peer] for peer in asked]

    async def _heard_by(self, peer: PeerId) -> Row:
        row: Row = {"peer_id": peer, "knows": False, "heard_by": None, "heard_ago_ms": None, "error": None}
        try:
            with trio.fail_after(DOCTOR_QUESTION_S):
                entries = await self._parts.market.heard_of(peer)
        except trio.TooSlowError:
            return row | {"error": "no answer"}
        except (TransportError, RemoteProtocolError) as error:
            return row | {"error": error.message}
        for entry in entries:
            heard_by = HeardBy(entry.heard_by).name.lower()
            return row | {"knows": True, "heard_by": heard_by, "heard_ago_ms": entry.heard_ago_ms}
        return row

    async def own_answer(self, model: str, seed: int) -> tuple[Row, Payload]:
        """What this node's own engine answers to the canary that is drawn from `seed`: {"model_id", "tame" (how tame an input
        the model needs), "item_us" (what an item took)}, and the answer. Raises CocoonError: NO_MODEL, CANARY (nothing can be
        made up for it), RANDOM (it answers the same input differently), TIMEOUT, ExecutionError."""
        manifest = self._parts.registry.get(model).manifest
        try:
            with trio.fail_after(DOCTOR_RUN_S):
                return await self._run_canary(manifest, seed)
        except trio.TooSlowError:
            raise CocoonError(f"the model takes longer than {DOCTOR_RUN_S:.0f} s here", code="TIMEOUT") from None

    async def _run_canary(self, manifest: Manifest, seed: int) -> tuple[Row, Payload]:
        """What the manifest does not say of the inputs is guessed, until the model takes them."""
        refused: ExecutionError | None = None
        for tame in range(TAME_MAX + 1):
            given = canary_input(manifest, random.Random(seed), tame=tame)
            try:
                answer, item_s = await self._parts.checks.own.timed_run(manifest.model_id, given)
            except ExecutionError as error:
                if error.code in _NOT_THE_INPUT:
                    raise
                refused = error
                continue
            return {"model_id": manifest.model_id, "tame": tame, "item_us": round(item_s * 1e6)}, answer
        raise CocoonError(f"the model takes no input that can be made up for it: {refused}", code="CANARY")

    # --- of another node ---

    async def try_addresses(self, peer: PeerId, addresses: Sequence[str]) -> list[Row]:
        """Dial a node at each of its addresses (without /p2p/) by itself. A row each: address, ms, error."""
        rows: dict[str, Row] = {}

        async def dial(address: str) -> None:
            started = trio.current_time()
            try:
                with trio.fail_after(DOCTOR_QUESTION_S):
                    await self._parts.network.try_dial(peer, address)
            except trio.TooSlowError:
                rows[address] = {"address": address, "ms": None, "error": "no answer"}
            except (TransportError, RemoteProtocolError) as error:
                rows[address] = {"address": address, "ms": None, "error": error.message}
            else:
                took_ms = round((trio.current_time() - started) * 1000, 3)
                rows[address] = {"address": address, "ms": took_ms, "error": None}

        async with open_plain_nursery() as nursery:
            for address in dict.fromkeys(addresses):
                nursery.start_soon(dial, address)
        return [rows[address] for address in dict.fromkeys(addresses)]

    async def in_directory(self, peer: PeerId, model_id: str) -> Row:
        """What the DHT says of a node: {"age_ms", "addresses" of its record; None and [] when there is none}, and whether
        it is found among those who run a model: {"listed", "providers"}."""
        network = self._parts.network
        row: Row = {"age_ms": None, "addresses": [], "listed": False, "providers": 0}
        raw = await network.dht_get(capacity_key(peer))
        if raw is not None:
            announcement = verify_announcement(raw).announcement
            row["age_ms"] = max(0, unix_ms(self._parts.clock) - announcement.issued_at_ms)
            row["addresses"] = list(announcement.addresses)
        found = await network.find_providers(model_content_id(ModelId(model_id)), DOCTOR_PROVIDERS_MAX)
        return row | {"listed": any(each.peer == peer for each in found), "providers": len(found)}


def untold_rules(rules: IdleRules, facts: MachineFacts) -> list[str]:
    """Keys of [idle] that are set, and need what this machine cannot tell."""
    needed = (
        ("user_idle_minutes", rules.user_idle_s, facts.user_idle_s),
        ("mains_power", rules.mains_power, facts.on_mains),
        ("temperature_max_c", rules.temperature_max_c, facts.temperature_c),
        ("load_max", rules.load_max, facts.foreign_load_cores),
    )
    return [key for key, rule, fact in needed if rule and fact is None]


def _offer(offer: Offer) -> Row:
    return {
        "model_id": offer.model_id,
        "name": offer.name,
        "device": offer.device,
        "item_us": offer.item_us,
        "prices": {price.tier.name.lower(): price.total(1) for price in offer.prices},
    }
