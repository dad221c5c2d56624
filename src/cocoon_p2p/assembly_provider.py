"""What a provider consists of beside its ports: its desk, the models that it serves, its idle rules."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

import trio

from cocoon_p2p.config import NodeConfig
from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.drivers.idling import NOT_LOOKED_YET
from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.drivers.price_keeper import PriceKeeper, PriceLevels
from cocoon_p2p.drivers.serving import PriceSettings, Serving
from cocoon_p2p.execution.jail import support
from cocoon_p2p.execution.memory import machine_bytes, model_budget
from cocoon_p2p.execution.pool_settings import PoolSettings
from cocoon_p2p.execution.port import Engine
from cocoon_p2p.ids import ModelId, Tier
from cocoon_p2p.machine.port import Machine
from cocoon_p2p.models.allow_list import AllowList
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry
from cocoon_p2p.policy.idle import IdleRules, parse_hours
from cocoon_p2p.proto.provider_desk import ProviderDesk
from cocoon_p2p.sealing.envelope import SealKey
from cocoon_p2p.sealing.seal_keys import SealKeyRing
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.port import Settlement
from cocoon_p2p.store import Store
from cocoon_p2p.wire.seal import make_seal_key_record

log = logging.getLogger(__name__)


def make_desk(identity: IdentityKey, settlement: Settlement, config: NodeConfig, clock: Clock) -> ProviderDesk:
    def make_record(key: SealKey, not_before_ms: int, not_after_ms: int) -> bytes:
        return make_seal_key_record(identity.peer_id, key.public_key, not_before_ms, not_after_ms, identity.sign)

    return ProviderDesk(
        identity=identity,
        seal_keys=SealKeyRing(make_record, unix_ms(clock)),
        settlement_network=settlement.network_id,
        slots=config.provider.slots,
        tiers=frozenset(Tier[tier.upper()] for tier in config.provider.tiers),
        items_max=config.provider.items_max,
        input_bytes_max=config.provider.input_bytes_max,
        bytes_in_flight_max=config.provider.bytes_in_flight_max,
        open_percent=config.provider.open_percent,
        rests=NOT_LOOKED_YET if idle_rules(config).any else None,
    )


def make_serving(
    engine: Engine | None, desk: ProviderDesk, registry: ModelRegistry, config: NodeConfig, store: Store
) -> Serving | None:
    if engine is None:
        return None
    section = config.provider
    prices = PriceSettings(
        section.price_base,
        section.price_per_item,
        section.pricing,
        section.price_floor_percent,
        section.price_ceiling_percent,
        section.open_percent,
        section.price_per_token,
    )
    keeper = PriceKeeper(desk, PriceLevels(store.values, section.pricing))
    allowed = allow_list(config)
    if allowed.no_jail:
        log.warning(
            "models that came from peers are not served, but for those in [provider] allow: %s", allowed.no_jail
        )
    return Serving(engine, desk, registry, prices, keeper, keep_warm=config.execution.keep_warm, allow_list=allowed)


def allow_list(config: NodeConfig) -> AllowList:
    """Which models may be run here, by what the kernel has for their processes' jail."""
    return AllowList([ModelId(text) for text in config.provider.allow], support().reason)


def pool_settings(config: NodeConfig) -> PoolSettings:
    """What [execution] says about which models are loaded."""
    section = config.execution
    return PoolSettings(
        budget_bytes=model_budget(section.memory_budget, machine_bytes()),
        unload_idle_s=60 * section.unload_idle_minutes,
        replicas_max=section.replicas_max,
    )


def idle_rules(config: NodeConfig) -> IdleRules:
    section = config.idle
    return IdleRules(
        user_idle_s=60 * section.user_idle_minutes,
        mains_power=section.mains_power,
        temperature_max_c=section.temperature_max_c,
        load_max=section.load_max,
        hours=parse_hours(section.hours),
    )


def open_system_machine(rules: IdleRules) -> Machine:
    """The real machine, imported here, since few nodes have idle rules."""
    from cocoon_p2p.machine.sensors import SystemMachine

    return SystemMachine(rules)


async def prepare(serving: Serving | None, registry: ModelRegistry, config: NodeConfig, *, imports: bool) -> None:
    """What takes long and needs nothing else, side by side: models into their workers, py-libp2p into this process."""
    async with open_plain_nursery() as nursery:
        if imports:
            nursery.start_soon(_import_network)
        if serving is not None:
            models = await _models_to_serve(serving, registry, config)
            await serving.serve_all(models, skip_failing=not config.provider.models)


async def _import_network() -> None:
    await trio.to_thread.run_sync(importlib.import_module, "cocoon_p2p.net.libp2p")


async def _models_to_serve(serving: Serving, registry: ModelRegistry, config: NodeConfig) -> list[InstalledModel]:
    """The configured ones (paths are installed first), else every installed one that is not held back."""
    wanted = config.provider.models
    if not wanted:
        return [model for model in registry.list() if model.offer.serve]
    models = []
    for each in wanted:
        if "/" in each:
            model = await serving.install(Path(each), name=None, price_base=None, price_per_item=None)
        else:
            model = registry.get(each)
        models.append(model)
    return models
