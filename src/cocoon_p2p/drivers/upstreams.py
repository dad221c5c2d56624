"""Models that a cluster of the operator's own runs: offered while it answers, withdrawn while it does not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.drivers.serving import Serving
from cocoon_p2p.errors import ConfigError, ExecutionError, one_line
from cocoon_p2p.execution.engines import EngineSet
from cocoon_p2p.execution.upstream.settings import UpstreamSettings
from cocoon_p2p.ids import ModelId
from cocoon_p2p.limits import UPSTREAM_RETRY_S
from cocoon_p2p.models.manifest import Manifest
from cocoon_p2p.models.registry import InstalledModel, Offer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UpstreamOffer:
    """One [[upstream]]. Prices in nanogram; None: the configuration's."""

    settings: UpstreamSettings
    price_base: int | None = None
    price_per_item: int | None = None


@dataclass(frozen=True, slots=True)
class UpstreamStanding:
    """How one [[upstream]] stands: `problem` is why it is not offered, "" while it is."""

    name: str
    model: str
    problem: str


class Upstreams:
    """`begin` at the start, `run` as a task."""

    def __init__(self, engines: EngineSet, serving: Serving, offers: Sequence[UpstreamOffer]) -> None:
        self._engines = engines
        self._serving = serving
        self._configured = tuple(offer.settings for offer in offers)
        self._waiting = list(offers)
        self._problems: dict[str, str] = {}
        self._offered: dict[ModelId, UpstreamOffer] = {}

    def standing(self) -> list[UpstreamStanding]:
        """Of each, in the order of the configuration."""
        return [UpstreamStanding(each.name, each.model, self._problems.get(each.name, "")) for each in self._configured]

    async def begin(self) -> None:
        """Offer what answers. Raises ConfigError for what can never be served."""
        await self._try_waiting()

    async def run(self) -> None:
        """Until it is cancelled: those that did not answer are asked again and again, and those that went away are no longer
        offered."""
        while True:
            await trio.sleep(UPSTREAM_RETRY_S)
            await self._withdraw_lost()
            try:
                await self._try_waiting()
            except ConfigError as error:  # it came back as something else
                log.error("%s", error)

    async def _try_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        async with open_plain_nursery() as nursery:
            for offer in waiting:
                nursery.start_soon(self._try_one, offer)

    async def _try_one(self, offer: UpstreamOffer) -> None:
        name, manifest = offer.settings.name, None
        try:
            manifest = await self._engines.add_upstream(offer.settings)
            self._check_alone(manifest, offer)
            model = InstalledModel(
                manifest.model_id, manifest, Offer(name, offer.price_base, offer.price_per_item), Path()
            )
            await self._serving.serve(model, items_max=offer.settings.context or None)
            self._offered[manifest.model_id] = offer
            if self._problems.pop(name, None) is not None:
                log.warning("upstream %s is offered now", name)
        except ExecutionError as error:
            problem = self._engines.upstream_complaint(name) or error.message
            if self._problems.get(name) != problem:  # it is asked again every few seconds
                self._problems[name] = problem
                log.info("upstream %s is not offered yet: %s", name, problem)
        except ConfigError as error:
            self._problems[name] = one_line(error)
            raise
        finally:
            if manifest is None or self._offered.get(manifest.model_id) is not offer:
                self._waiting.append(offer)

    def _check_alone(self, manifest: Manifest, offer: UpstreamOffer) -> None:
        other = self._offered.get(manifest.model_id)
        if other is not None:
            raise ConfigError(
                f"upstreams {other.settings.name} and {offer.settings.name} name the same model: its id would be one",
                hint="put a load balancer in front of them, and name that",
            )

    async def _withdraw_lost(self) -> None:
        for status in self._engines.models():
            offer = self._offered.get(status.model_id)
            if offer is not None and not status.loaded:
                log.warning("upstream %s is not offered while it does not answer", offer.settings.name)
                del self._offered[status.model_id]
                self._problems[offer.settings.name] = (
                    self._engines.upstream_complaint(offer.settings.name) or "it does not answer"
                )
                await self._serving.withdraw(status.model_id)
                self._waiting.append(offer)
