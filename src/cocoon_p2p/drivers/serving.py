"""The models this node runs for others: loaded into the engine, priced, put on the desk and into the announcement."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from cocoon_p2p.drivers.own_pricing import GuardedPricing, pricing_maker
from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.drivers.price_keeper import PriceKeeper
from cocoon_p2p.errors import ConfigError, ExecutionError, RefusalReason
from cocoon_p2p.execution.port import Engine, ModelStatus
from cocoon_p2p.ids import ModelId, Tier
from cocoon_p2p.models.allow_list import AllowList
from cocoon_p2p.models.manifest import GENERATION, Manifest
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry
from cocoon_p2p.models.registry import Offer as RegistryOffer
from cocoon_p2p.policy.admission import Refused
from cocoon_p2p.policy.pricing import ListedPrice
from cocoon_p2p.proto.provider_desk import ProviderDesk, ServedModel
from cocoon_p2p.wire.capacity import DeviceClass, Offer, TierPrice, Unit
from cocoon_p2p.wire.codec import UINT32_MAX

log = logging.getLogger(__name__)

_EVERYTHING = AllowList()


@dataclass(frozen=True, slots=True)
class PriceSettings:
    """What [provider] of node.toml says about prices."""

    base: int
    """Nanogram a job, for models without a price of their own."""
    per_item: int
    pricing: str = "fixed"
    floor_percent: int = 100
    ceiling_percent: int = 100
    open_percent: int = 100
    """Of an open job, of a sealed one's."""
    per_token: int | None = None
    """In the place of `per_item`, for models that generate text. None: the same."""

    def listed(self, model: InstalledModel) -> ListedPrice:
        """Of one model. Raises ConfigError."""
        offer = model.offer
        base = self.base if offer.price_base is None else offer.price_base
        usual = self.per_token if model.manifest.kind == GENERATION and self.per_token is not None else self.per_item
        per_item = usual if offer.price_per_item is None else offer.price_per_item
        ListedPrice(base, per_item, ceiling_percent=max(100, self.ceiling_percent * self.open_percent // 100))
        return ListedPrice(base, per_item, self.floor_percent, self.ceiling_percent)


class Serving:
    """What is on offer. `changed` is called after each change. Raises ConfigError for a pricing policy that there is not,
    or that does not load."""

    def __init__(
        self,
        engine: Engine,
        desk: ProviderDesk,
        registry: ModelRegistry,
        prices: PriceSettings,
        keeper: PriceKeeper | None = None,
        *,
        keep_warm: Sequence[str] = (),
        allow_list: AllowList = _EVERYTHING,
    ) -> None:
        """`keep_warm`: names or ids of models that are loaded at once and never unloaded, the others being loaded by their first
        job; none: as many are loaded as the engine has room for."""
        self._engine = engine
        self._desk = desk
        self._registry = registry
        self._prices = prices
        self._make_pricing = pricing_maker(prices.pricing)
        self._keeper = keeper
        self._keep_warm = frozenset(keep_warm)
        self.allow_list = allow_list
        self._installed: dict[ModelId, InstalledModel] = {}
        self._failed: dict[ModelId, tuple[InstalledModel, str]] = {}
        self.changed: Callable[[], None] = lambda: None
        desk.load_ms = self._load_ms
        desk.wait_ms = self._wait_ms

    async def keep_prices(self) -> None:
        """A task that moves the prices, if they can move, until it is cancelled."""
        if self._keeper is not None and self._prices.pricing != "fixed":
            await self._keeper.run(self.changed)

    async def install(
        self, path: Path, *, name: str | None, price_base: int | None, price_per_item: int | None
    ) -> InstalledModel:
        """Copy a model into the home. Raises ConfigError."""

        def add() -> InstalledModel:
            return self._registry.add(path, name=name, price_base=price_base, price_per_item=price_per_item)

        return await trio.to_thread.run_sync(add)

    async def install_and_serve(
        self, path: Path, *, name: str | None, price_base: int | None, price_per_item: int | None
    ) -> InstalledModel:
        """Copy a model into the home, load and offer it. When it does not load, the home is as it was before. Raises
        ConfigError, ExecutionError."""
        before = {model.model_id: model.offer for model in await self._on_disk()}
        model = await self.install(path, name=name, price_base=price_base, price_per_item=price_per_item)
        try:
            await self.serve(model)
        except (ExecutionError, ConfigError):
            await self._take_back(model, before.get(model.model_id))
            raise
        return model

    async def serve_all(self, models: Sequence[InstalledModel], *, skip_failing: bool) -> None:
        """Load models side by side, or make them known to the engine, and offer them. One that does not load, or for which there is
        not enough memory, is logged and left out with `skip_failing`; else this raises ExecutionError. ConfigError (a device
        that does not work) is raised in any case."""
        unknown = self._keep_warm - {known for model in models for known in (model.name, model.model_id)}
        if unknown:
            log.warning("[execution] keep_warm names what is no model on offer here: %s", ", ".join(sorted(unknown)))

        async def serve(model: InstalledModel) -> None:
            try:
                await self._serve(model)
            except ExecutionError as error:
                if not skip_failing:
                    raise _named(model, error) from error
                log.error("model %s is not offered: %s", model.name, error.message)

        kept = [model for model in models if self._keeps(model)]
        for part in (kept, [model for model in models if model not in kept]):  # what is to be kept has its room first
            async with open_plain_nursery() as nursery:
                for model in part:
                    nursery.start_soon(serve, model)

    async def serve(self, model: InstalledModel, *, items_max: int | None = None) -> ModelStatus:
        """Load a model and offer it; `items_max` of one job, where its manifest does not say. Raises ExecutionError that names the
        model, ConfigError."""
        try:
            return await self._serve(model, items_max)
        except ExecutionError as error:
            raise _named(model, error) from error

    async def _serve(self, model: InstalledModel, items_max: int | None = None) -> ModelStatus:
        self.allow_list.check(model)
        try:
            if self._keep_warm:
                status = await self._engine.load(model.model_id, model.folder, keep=self._keeps(model))
            else:
                status = await self._engine.load(model.model_id, model.folder)
        except ExecutionError as error:
            if error.code == "LIMITS":
                # SPEC job/1 §6
                refused = Refused(RefusalReason.LIMITS, f"{model.name} does not fit: {error.message}")
                self._desk.too_large = {**self._desk.too_large, model.model_id: refused}
            self._failed[model.model_id] = (model, error.message)
            raise
        pricing = self._make_pricing(self._prices.listed(model))
        if self._keeper is not None:
            self._keeper.levels.restore(model.model_id, pricing)
        served = ServedModel(
            model.model_id,
            model.name,
            pricing,
            status.device.name,
            *_measure(model.manifest, items_max),
            open_only=model.manifest.upstream is not None,
        )
        self._installed[model.model_id] = model
        self._failed.pop(model.model_id, None)
        self._desk.models = {**self._desk.models, model.model_id: served}
        self.changed()
        return status

    async def withdraw(self, model_id: ModelId) -> bool:
        """Offer a model no more, and end its workers: its jobs fail. False when it was not on offer."""
        offered = model_id in self._desk.models
        self._desk.models = {i: model for i, model in self._desk.models.items() if i != model_id}
        self._installed.pop(model_id, None)
        self._failed.pop(model_id, None)
        if offered:
            self.changed()
        await self._engine.unload(model_id)
        return offered

    async def _take_back(self, model: InstalledModel, offer: RegistryOffer | None) -> None:
        """Undo an installation; `offer` is what stood there before, if anything did."""
        why = self._failed.pop(model.model_id, None)
        if offer is not None:
            if why is not None:
                self._failed[model.model_id] = (replace(model, offer=offer), why[1])
            await trio.to_thread.run_sync(self._registry.set_offer, model.model_id, offer)
            return
        await self._engine.unload(model.model_id)
        await trio.to_thread.run_sync(self._registry.remove, model.model_id)

    async def _on_disk(self) -> Sequence[InstalledModel]:
        return await trio.to_thread.run_sync(self._registry.list)

    def offers(self) -> list[Offer]:
        """For the announcement: prices and load as they are now. None while the machine rests."""
        statuses = self._note_speed()
        if self._desk.rests is not None:
            return []
        models = [(model, statuses.get(model.model_id)) for model in self._desk.models.values()]
        return [self._offer(model, status) for model, status in models if status is None or not status.problem]

    def manifest(self, model_id: ModelId) -> bytes | None:
        """The manifest of a model on offer."""
        model = self._installed.get(model_id)
        return None if model is None else model.manifest.encode()

    def models(self) -> Sequence[tuple[InstalledModel, ModelStatus]]:
        statuses = {status.model_id: status for status in self._engine.models()}
        return [(self._installed[i], statuses[i]) for i in self._desk.models if i in statuses]

    def not_offered(self) -> Sequence[tuple[InstalledModel, str]]:
        """Models that are here and should be on offer, and why the engine did not take them."""
        return [(model, why) for model_id, (model, why) in self._failed.items() if model_id not in self._desk.models]

    def price(self, model_id: ModelId, tier: Tier | None = None) -> tuple[int, int]:
        """(base, per item) as a job of one item would be quoted now; without a `tier`, of the best hidden one on offer."""
        model = self._desk.models[model_id]
        tier = max(self._desk.tiers_of(model), default=Tier.SEALED) if tier is None else tier
        price = self._desk.price(model, 1, 0, tier)
        return price.base, price.per_item

    def pricing(self, model_id: ModelId) -> str:
        """The policy that sets a model's price, and whether it has failed."""
        failed = isinstance(policy := self._desk.models[model_id].pricing, GuardedPricing) and policy.failed
        return f"fixed, as {self._prices.pricing} failed" if failed else self._prices.pricing

    def _keeps(self, model: InstalledModel) -> bool:
        return not self._keep_warm.isdisjoint((model.name, model.model_id))

    def _status(self, model_id: ModelId) -> ModelStatus | None:
        return next((status for status in self._engine.models() if status.model_id == model_id), None)

    def _load_ms(self, model_id: ModelId) -> int:
        status = self._status(model_id)
        return 0 if status is None else _load_ms(status)

    def _wait_ms(self, model_id: ModelId) -> int | None:
        """Until the engine has a place for one more answer, and the desk a slot."""
        # SPEC capacity/1 §3.3
        status = self._status(model_id)
        if status is None or status.wait_s is None:
            return None
        if self._desk.running < self._desk.slots:
            return int(1000 * status.wait_s)
        return None if status.next_end_s is None else int(1000 * max(status.wait_s, status.next_end_s))

    def _offer(self, model: ServedModel, status: ModelStatus | None) -> Offer:
        """`status` is the engine's; None for a model of another one."""
        desk = self._desk
        device = status.device.name if status is not None and status.device.name else model.device
        return Offer(
            model_id=model.model_id,
            name=model.name,
            unit=model.unit,
            prices=tuple(TierPrice(tier, *self.price(model.model_id, tier)) for tier in sorted(desk.tiers_of(model))),
            items_max=desk.items_max if model.items_max is None else model.items_max,
            input_bytes_max=desk.input_bytes_max,
            slots_total=desk.slots,
            slots_free=max(0, desk.slots - desk.running),
            queue_ms=desk.queue_ms(model.model_id),
            device=device,
            device_class=device_class(device),
            item_us=int(desk.item_s.get(model.model_id, 0.0) * 1e6),
            throughput=0 if status is None else int(status.best_items_s * 1000),
            load_ms=0 if status is None else _load_ms(status),
        )

    def _note_speed(self) -> dict[ModelId, ModelStatus]:
        """The desk learns what an item takes; returns what the engine says of each model."""
        statuses = self._engine.models()
        for status in statuses:
            if status.item_s is not None:
                self._desk.item_s[status.model_id] = status.item_s
        return {status.model_id: status for status in statuses}


def _load_ms(status: ModelStatus) -> int:
    """How long a job that came now would wait for the model to be loaded; 0 when it is."""
    # SPEC capacity/1 §3.3
    return 0 if status.warm else min(max(1, int(1000 * (status.load_s or 0.0))), UINT32_MAX)


_GPUS = frozenset({"cuda", "tensorrt", "rocm", "migraphx", "coreml", "directml"})


def device_class(device: str) -> DeviceClass:
    """Of a device as the engine names it (execution/device.py): "cpu", "cuda:0" …"""
    kind = device.partition(":")[0]
    if kind == "cpu":
        return DeviceClass.CPU
    return DeviceClass.GPU if kind in _GPUS else DeviceClass.OTHER


def _named(model: InstalledModel, error: ExecutionError) -> ExecutionError:
    """The same error with the model's name, since several are loaded at the same time."""
    message = f"model {model.name} cannot be served: {error.message}"
    return ExecutionError(message, code=error.code, retryable=error.retryable, hint=error.hint)


def _measure(manifest: Manifest, items_max: int | None) -> tuple[Unit, int | None]:
    """What a job of the model is counted in, and how many one may have where that is not as with all others."""
    if manifest.kind != GENERATION:
        return Unit.ITEM, items_max
    return Unit.TOKEN, items_max if manifest.generation is None else manifest.generation.context
