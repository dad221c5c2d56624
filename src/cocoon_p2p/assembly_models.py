"""How models move between this node and others: what stands behind `Node.pull`, and what others may fetch here."""

from __future__ import annotations

import logging
import random
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import trio

from cocoon_p2p.config import NodeConfig
from cocoon_p2p.drivers.auto_serve import AutoServe, AutoServePorts
from cocoon_p2p.drivers.blob_holders import BlobAnnouncing, HolderFinder
from cocoon_p2p.drivers.blob_serve import BlobPorts, BlobServer
from cocoon_p2p.drivers.blob_shelf import BlobShelf
from cocoon_p2p.drivers.disk_threads import DiskThreads
from cocoon_p2p.drivers.market import MarketDriver
from cocoon_p2p.drivers.model_pull import ModelPuller, PullPorts
from cocoon_p2p.drivers.resolve import Resolver
from cocoon_p2p.drivers.serving import Serving
from cocoon_p2p.errors import ConfigError, ExecutionError, one_line
from cocoon_p2p.execution.jail import support
from cocoon_p2p.execution.memory import amount_bytes, machine_bytes
from cocoon_p2p.ids import ModelId
from cocoon_p2p.limits import GIB
from cocoon_p2p.models.registry import PEER, InstalledModel, ModelRegistry, Offer
from cocoon_p2p.policy.bandwidth import Bandwidth
from cocoon_p2p.proto.provider_desk import ProviderDesk
from cocoon_p2p.wire.blob import BLOB_PROTOCOL

log = logging.getLogger(__name__)

_MEGABYTE = 1_000_000
_DISK_BYTES = 20 * GIB
"""What "auto" is for [provider] auto_serve_disk."""
_MACHINE_SHARE = 4
"""A model may have this part of the machine's memory: as much again goes with its working memory."""


@dataclass(frozen=True, slots=True)
class ModelMoves:
    """The parts of a node that models move by."""

    puller: ModelPuller
    server: BlobServer
    shelf: BlobShelf
    resolver: Resolver
    threads: DiskThreads
    auto_serve: AutoServe | None
    """None where [provider] auto_serve is off, or models from strangers cannot be run."""


@dataclass(frozen=True, slots=True)
class MoveParts:
    """What they are made of."""

    home: Path
    config: NodeConfig
    registry: ModelRegistry
    market: MarketDriver
    resolver: Resolver
    serving: Serving | None
    desk: ProviderDesk
    rng: random.Random


def open_model_moves(parts: MoveParts, blob: BlobPorts, nursery: trio.Nursery) -> ModelMoves:
    """Others are answered from here on."""
    section = parts.config.models
    shelf = BlobShelf(parts.registry, blob.threads, shares=section.share)
    upload = Bandwidth(section.upload_megabytes_per_second * _MEGABYTE)
    server = BlobServer(blob, shelf, uploads_max=section.uploads_max, upload=upload)
    announcing = BlobAnnouncing(
        blob.network, kept=lambda: _kept(parts, blob.threads, shelf), offered=lambda: _offered(parts.serving)
    )
    ports = PullPorts(
        blob=blob,
        home=parts.home,
        registry=parts.registry,
        own=blob.network.peer_id,
        shelf=shelf,
        server=server,
        finder=HolderFinder(blob.network, parts.market, parts.rng),
        announcing=announcing,
        download=Bandwidth(section.download_megabytes_per_second * _MEGABYTE),
        rng=parts.rng,
        offer=lambda name: Offer(name, origin=PEER),
        arrived=lambda model: _offer(parts.serving, model),
    )
    puller = ModelPuller(ports, nursery)
    blob.network.set_handler(BLOB_PROTOCOL, server.serve_stream)
    nursery.start_soon(server.run)
    nursery.start_soon(announcing.run)
    auto_serve = _auto_serve(parts, blob, puller, server)
    if auto_serve is not None:
        parts.desk.missed = auto_serve.missed
        nursery.start_soon(auto_serve.run)
    return ModelMoves(puller, server, shelf, parts.resolver, blob.threads, auto_serve)


def _auto_serve(parts: MoveParts, blob: BlobPorts, puller: ModelPuller, server: BlobServer) -> AutoServe | None:
    section = parts.config.provider
    if not section.auto_serve or parts.serving is None:
        return None
    jail = support()
    if not jail.complete:
        log.warning("[provider] auto_serve is on, and no model is picked up: %s", jail.reason)
        return None
    machine = machine_bytes()
    return AutoServe(
        AutoServePorts(
            home=parts.home,
            network=blob.network,
            market=parts.market,
            resolver=parts.resolver,
            registry=parts.registry,
            serving=parts.serving,
            puller=puller,
            server=server,
            threads=blob.threads,
            clock=blob.clock,
            disk_bytes=amount_bytes(section.auto_serve_disk) or _DISK_BYTES,
            model_bytes=amount_bytes(section.auto_serve_memory) or (machine and machine // _MACHINE_SHARE),
        )
    )


async def _kept(parts: MoveParts, threads: DiskThreads, shelf: BlobShelf) -> Collection[ModelId]:
    """Models that others may fetch here, those on their way first."""
    if not shelf.shares:
        return ()
    installed = await threads.run(parts.registry.list)
    return [*shelf.arriving, *(model.model_id for model in installed if model.offer.share)]


def _offered(serving: Serving | None) -> Collection[ModelId]:
    return {offer.model_id for offer in serving.offers()} if serving is not None else ()


async def _offer(serving: Serving | None, model: InstalledModel) -> str:
    """Offer a model that came, where this node serves at all."""
    if serving is None or not model.offer.serve:
        return ""
    try:
        await serving.serve(model)
    except (ExecutionError, ConfigError) as error:
        log.warning("%s", one_line(error))
        return f"it is not on offer: {one_line(error)}"
    return "this node offers it now"
