"""Picks up models that are in demand, offers them, and removes again what nobody wants (policy/auto_serve.py)."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.blob_serve import BlobServer
from cocoon_p2p.drivers.clock import Clock
from cocoon_p2p.drivers.disk_threads import DiskThreads
from cocoon_p2p.drivers.market import MarketDriver
from cocoon_p2p.drivers.model_pull import ModelPuller
from cocoon_p2p.drivers.resolve import Resolver
from cocoon_p2p.drivers.serving import Serving
from cocoon_p2p.errors import CocoonError, ConfigError, one_line
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.models.disk_room import check_room
from cocoon_p2p.models.layout import models_folder
from cocoon_p2p.models.manifest import Manifest
from cocoon_p2p.models.partial import partial_manifest, remove_partial
from cocoon_p2p.models.picked_up import read_picked_up, write_picked_up
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.net.port import Network
from cocoon_p2p.policy.auto_serve import (
    Demand,
    ModelOnOffer,
    PickedUp,
    Shortage,
    fits_meanwhile,
    ranked,
    victims,
)
from cocoon_p2p.policy.subnets import subnet_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AutoServePorts:
    """`disk_bytes` for all that is picked up; `model_bytes` for one model."""

    home: Path
    network: Network
    market: MarketDriver
    resolver: Resolver
    registry: ModelRegistry
    serving: Serving
    puller: ModelPuller
    server: BlobServer
    threads: DiskThreads
    clock: Clock
    disk_bytes: int
    model_bytes: int | None


class AutoServe:
    """`run` it in a task; `missed` is told of each ask for a model that is not here."""

    def __init__(self, ports: AutoServePorts) -> None:
        self._ports = ports
        self._demand = Demand()
        self._shortage = Shortage()
        self._picked: dict[ModelId, PickedUp] = {}
        self._jobs: dict[ModelId, int] = {}
        """Jobs that each had done when it was looked last."""
        self._tried: dict[ModelId, float] = {}
        """When those were tried that could not be had, or are not for us."""

    def missed(self, model_id: ModelId, peer: PeerId) -> None:
        """A peer asked for it in vain."""
        addresses = [each.address for each in self._ports.network.peers() if each.peer == peer and not each.relayed]
        self._demand.asked(model_id, subnet_of(addresses), self._ports.clock.now())

    def picked(self) -> list[PickedUp]:
        """What is here by its own choice."""
        return list(self._picked.values())

    async def run(self) -> None:
        """Runs until cancelled."""
        self._picked = await self._ports.threads.run(read_picked_up, self._ports.home)
        while True:
            await trio.sleep(limits.AUTO_SERVE_INTERVAL_S)
            try:
                await self.look()
            except CocoonError as error:
                log.warning("no model was picked up: %s", one_line(error))
            except OSError as error:
                log.error("what was picked up cannot be written down: %s", error)

    async def look(self) -> None:
        """Once: note what was used, and pick up the first model that would be of use and fits. Raises CocoonError, OSError."""
        ports, now = self._ports, self._ports.clock.now()
        await self._note_use()
        installed = {model.model_id for model in await ports.threads.run(ports.registry.list)}
        if gone := set(self._picked) - installed:  # removed by hand
            self._picked = {i: each for i, each in self._picked.items() if i not in gone}
            await self._write()
        # The node ended while one came in place of another, or the budget is less now.
        for each in self._too_much() or ():
            await self._remove(each)
        self._tried = {i: at for i, at in self._tried.items() if now - at < limits.AUTO_SERVE_AGAIN_S}
        short = self._shortage.scores(self._on_offer())
        for model_id, score in ranked(self._demand.scores(now), short, {*installed, *self._tried}):
            self._tried[model_id] = now
            if await self._pick_up(model_id, score):
                return

    def _on_offer(self) -> list[ModelOnOffer]:
        return [
            ModelOnOffer(
                each.offer.model_id,
                subnet_of(each.addresses),
                each.offer.slots_free == 0,
                min((price.total(1) for price in each.offer.prices), default=0),
            )
            for each in self._ports.market.offers()
        ]

    async def _pick_up(self, model_id: ModelId, score: float) -> bool:
        """Whether it is here now."""
        ports = self._ports
        try:
            manifest = await ports.resolver.manifest(model_id)
        except CocoonError as error:
            log.info("model %s is wanted, and nobody tells what it is: %s", model_id, one_line(error))
            return False
        going = self._room_for(manifest)
        if going is None or ports.puller.is_running(model_id):  # somebody pulls it by hand: it is his
            return False
        if going and not await self._may_wait(manifest):
            log.info("%d models go before model %s comes: the disk budget does not hold both", len(going), model_id)
            for each in going:
                await self._remove(each)
        log.info("picking up model %s, of %d bytes: its demand is %.1f", model_id, manifest.size, score)
        begun_by_hand = await ports.threads.run(partial_manifest, ports.home, model_id) is not None
        pull = ports.puller.begin(model_id, name=self._name(model_id), manifest=manifest.encode())
        try:
            await ports.puller.wait(pull)
        except CocoonError as error:
            log.info("model %s was not picked up: %s", model_id, one_line(error))
            if not begun_by_hand:  # what strangers make us begin, and do not give, is not to fill the disk
                await ports.threads.run(remove_partial, ports.home, model_id)
            return False
        unix = ports.clock.unix()
        self._picked[model_id] = PickedUp(model_id, manifest.size, unix, unix)
        await self._write()
        if model_id not in {model.model_id for model, _ in ports.serving.models()}:
            log.warning("model %s was picked up and cannot be served; it goes again", model_id)
            await self._remove(model_id)
            return False
        too_much = self._too_much()
        for each in going if too_much is None else too_much:  # None: they were used meanwhile, and go all the same
            await self._remove(each)
        return True

    async def _may_wait(self, manifest: Manifest) -> bool:
        """Whether what is to go for a model may stay until it is here: what does not come costs us nothing then."""
        ports = self._ports
        if not fits_meanwhile(self._picked.values(), manifest.size, ports.disk_bytes):
            return False
        try:
            await ports.threads.run(check_room, models_folder(ports.home), manifest.size, f"model {manifest.model_id}")
        except ConfigError:
            return False
        return True

    def _room_for(self, manifest: Manifest) -> list[ModelId] | None:
        """What has to go for it; None: it is too large, or all else is used, and stays."""
        ports = self._ports
        if ports.model_bytes is not None and manifest.size > ports.model_bytes:
            log.info("model %s needs %d bytes; [provider] auto_serve_memory has less", manifest.model_id, manifest.size)
            return None
        return self._too_much(manifest.size)

    def _too_much(self, needed: int = 0) -> list[ModelId] | None:
        """What has to go so that `needed` bytes more stay within the budget; None: it cannot be done now."""
        ports = self._ports
        busy = {model.model_id for model, status in ports.serving.models() if status.running or status.queued}
        return victims(
            self._picked.values(),
            needed,
            ports.disk_bytes,
            now=ports.clock.unix(),
            is_busy=lambda model_id: model_id in busy,
        )

    def _name(self, model_id: ModelId) -> str:
        offers = self._ports.market.offers(model_id)
        return offers[0].offer.name if offers else model_id[:12]

    async def _remove(self, model_id: ModelId) -> None:
        ports = self._ports
        log.info("model %s, which was picked up, goes again", model_id)
        await ports.serving.withdraw(model_id)
        ports.server.removed(model_id)
        with suppress(CocoonError):  # removed by hand
            await ports.threads.run(ports.registry.remove, model_id)
        self._picked.pop(model_id, None)
        await self._write()

    async def _note_use(self) -> None:
        used = False
        for model, status in self._ports.serving.models():
            each = self._picked.get(model.model_id)
            if each is not None and status.jobs_done != self._jobs.get(model.model_id, status.jobs_done):
                self._picked[model.model_id] = replace(each, used_at=self._ports.clock.unix())
                used = True
            self._jobs[model.model_id] = status.jobs_done
        if used:
            await self._write()

    async def _write(self) -> None:
        await self._ports.threads.run(write_picked_up, self._ports.home, list(self._picked.values()))
