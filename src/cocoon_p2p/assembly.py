"""Puts a node together: opens the ports in order, starts the drivers, and takes all of it down again in reverse."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import trio

from cocoon_p2p.assembly_engines import offer_upstreams, open_engines
from cocoon_p2p.assembly_models import ModelMoves, MoveParts, open_model_moves
from cocoon_p2p.assembly_provider import (
    allow_list,
    idle_rules,
    make_desk,
    make_serving,
    open_system_machine,
    pool_settings,
    prepare,
)
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.drivers.blob_serve import BlobPorts
from cocoon_p2p.drivers.checking import CheckPorts, Checks, make_checks
from cocoon_p2p.drivers.clock import Clock, SystemClock
from cocoon_p2p.drivers.considerations import ConsiderationKeeper
from cocoon_p2p.drivers.disk_threads import DiskThreads
from cocoon_p2p.drivers.experience import ExperienceKeeper
from cocoon_p2p.drivers.generating import Generating
from cocoon_p2p.drivers.idling import Idling
from cocoon_p2p.drivers.job_client import ClientPorts, JobClient
from cocoon_p2p.drivers.job_provider import JobProvider, ProviderPorts
from cocoon_p2p.drivers.joining import Joiner
from cocoon_p2p.drivers.journal import JournalKeeper
from cocoon_p2p.drivers.known_peers import KnownPeersKeeper
from cocoon_p2p.drivers.market import SEQUENCE_NAME, MarketDriver, MarketPorts
from cocoon_p2p.drivers.order import BuyerPorts
from cocoon_p2p.drivers.own_engine import OwnEngine
from cocoon_p2p.drivers.peering import Membership, Peering, PeeringPorts
from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.drivers.purchase import Buyer
from cocoon_p2p.drivers.recovery import recover
from cocoon_p2p.drivers.resolve import Resolver
from cocoon_p2p.drivers.serving import Serving
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.drivers.upstreams import Upstreams
from cocoon_p2p.errors import ConfigError, TransportError
from cocoon_p2p.execution.memory import job_budget, machine_bytes
from cocoon_p2p.execution.port import Engine
from cocoon_p2p.home import Home, PrivateNetwork
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.limits import MIB
from cocoon_p2p.machine.port import Machine
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.net.port import Network, PeerAddresses
from cocoon_p2p.policy.idle import IdleRules
from cocoon_p2p.proto.market import Announcer, MarketBook, validate_record
from cocoon_p2p.proto.provider_desk import ProviderDesk
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.ledger_schema import LEDGER_SCHEMA
from cocoon_p2p.settlement.local import open_local_settlement
from cocoon_p2p.settlement.port import Settlement
from cocoon_p2p.store import STORE_SCHEMA, Store, open_store
from cocoon_p2p.store.emptied import refuse_emptied
from cocoon_p2p.store.market_journal import open_market_journal
from cocoon_p2p.wire.capacity import CAPACITY_NAMESPACE
from cocoon_p2p.wire.job import JOB_PROTOCOL

log = logging.getLogger(__name__)

VALIDATORS = {CAPACITY_NAMESPACE: validate_record}
SHUTDOWN_GRACE_S = 5.0
"""Jobs that run when the node stops may finish for so long; a MiniLM job takes milliseconds."""
GOODBYE_S = 2.0
"""For the last announcement and the end frames of our streams."""

NetworkOpener = Callable[[IdentityKey, NodeConfig], AbstractAsyncContextManager[Network]]
EngineOpener = Callable[[NodeConfig], AbstractAsyncContextManager[Engine]]
MachineOpener = Callable[[IdleRules], Machine]


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that a running node consists of."""

    home: Home
    config: NodeConfig
    identity: IdentityKey
    clock: Clock
    started: float
    network: Network
    store: Store
    settlement: Settlement
    standing: StandingKeeper
    registry: ModelRegistry
    market: MarketDriver
    buyer: Buyer
    generating: Generating
    experience: ExperienceKeeper
    nursery: trio.Nursery
    """For work that goes on between two calls; it ends with the node."""
    checks: Checks
    peering: Peering
    moves: ModelMoves
    serving: Serving | None
    """None for a node that serves nobody."""
    idling: Idling | None
    """None for a node without idle rules."""
    upstreams: Upstreams | None
    """None for a node without clusters behind it."""


@dataclass(frozen=True, slots=True)
class Backends:
    """What stands behind a node's ports, and its sources of time and chance. A simulation puts in its own
    (`cocoon_p2p.testing`); None is the real part."""

    open_network: NetworkOpener | None = None
    open_engine: EngineOpener | None = None
    open_machine: MachineOpener | None = None
    clock: Clock | None = None
    rng: random.Random | None = None
    private: PrivateNetwork | None = None
    """The private network to be in, where no home folder keeps its key."""
    keep_journal: bool = True
    """Whether the market is written down; a simulation of hundreds of nodes has better things to do."""


@asynccontextmanager
async def open_parts(
    home: Home, config: NodeConfig, backends: Backends, *, must_join: bool = True, by_bootstrap: bool = True
) -> AsyncIterator[Parts]:
    """Raises ConfigError, ExecutionError (a model does not load), TransportError (nobody answers by whom to enter).
    Without `must_join` the node goes on without them, and keeps trying: one that others can dial is of use meanwhile.
    With `by_bootstrap` a bootstrap node must answer; without, a peer known from before will do."""
    clock = backends.clock or SystemClock()
    rng = backends.rng or random.SystemRandom()
    private = backends.private or home.private_network()
    open_network = backends.open_network or partial(open_libp2p_network, private=private)
    open_engine = backends.open_engine or open_onnx_engine
    started = clock.now()
    async with AsyncExitStack() as stack:
        stack.enter_context(home.lock())
        identity = home.identity()
        store, settlement = _open_books(stack, home, identity, threads=backends.clock is None)
        await recover(store, settlement, clock)
        registry = ModelRegistry(home.path)
        desk = make_desk(identity, settlement, config, clock)
        engine = await open_engines(stack, config, open_engine(config)) if config.provider.serve else None
        serving = make_serving(engine, desk, registry, config, store)
        await prepare(serving, registry, config, imports=backends.open_network is None)
        network = await stack.enter_async_context(open_network(identity, config))
        nursery = await stack.enter_async_context(open_plain_nursery())
        stack.callback(nursery.cancel_scope.cancel)

        standing = _standing(network, store, clock, nursery)
        market = _market(
            MarketPorts(network, store, standing, clock, rng),
            identity,
            config,
            network_id=settlement.network_id,
            serving=serving,
            desk=desk,
        )
        await nursery.start(market.run)
        stack.enter_context(_kept_journal(home, config, backends, market, nursery))
        jobs = JobClient(ClientPorts(identity, network, settlement, store, standing, clock), nursery)
        stack.push_async_callback(_briefly, jobs.aclose)
        provides = None if engine is None else ProviderPorts(engine, settlement, store, desk, standing, clock)
        idling = await _provide(provides, config, backends, network, market, stack=stack)
        membership = membership_of(private)
        entries = bootstrap_peers(config.network.entries(private=private is not None))
        known = KnownPeersKeeper(network, store, standing, clock, rng, network_name=membership.fingerprint)
        joiner = Joiner(network, entries, known.some)
        await _join(joiner, must_join=must_join, by_bootstrap=by_bootstrap)
        nursery.start_soon(joiner.run)
        nursery.start_soon(known.run)
        stack.callback(known.save)
        peering = Peering(
            PeeringPorts(network, store, standing, clock),
            joiner,
            known,
            membership,
            lambda: advertised_addresses(network, config),
        )
        market.refresh()
        upstreams = await offer_upstreams(engine, serving, config)
        _keep_offers(nursery, serving, idling, market.refresh, upstreams)
        learned = ExperienceKeeper(store, clock), ConsiderationKeeper(store, clock)
        resolver = Resolver(
            market,
            local_id=lambda name: _installed_id(registry, name),
            local_manifest=lambda model_id: _installed_manifest(registry, model_id),
            names=store.model_names,
            experience=learned[0],
        )
        ports = BuyerPorts(network, settlement, store, clock, rng, *learned)
        buyer = stack.enter_context(Buyer(ports, market, jobs, resolver))
        checks = make_checks(
            CheckPorts(identity, buyer.experience, clock, rng),
            buyer,
            resolver,
            OwnEngine(registry, engine, partial(open_engine, config), allow_list(config)),
            home=home.path,
            audit_percent=config.client.audit_percent,
        )
        nursery.start_soon(checks.repeater.run)
        blob = BlobPorts(network, standing, clock, DiskThreads(real=backends.clock is None))
        moves = open_model_moves(
            MoveParts(home.path, config, registry, market, resolver, serving, desk, rng), blob, nursery
        )
        yield Parts(
            home=home,
            config=config,
            identity=identity,
            clock=clock,
            started=started,
            network=network,
            store=store,
            settlement=settlement,
            standing=standing,
            registry=registry,
            market=market,
            buyer=buyer,
            generating=Generating(buyer, ports),
            experience=buyer.experience,
            nursery=nursery,
            checks=checks,
            peering=peering,
            moves=moves,
            serving=serving,
            idling=idling,
            upstreams=upstreams,
        )


def _open_books(
    stack: ExitStack | AsyncExitStack, home: Home, identity: IdentityKey, *, threads: bool
) -> tuple[Store, Settlement]:
    """Jobs and money. Raises ConfigError, also for a file whose content was lost."""
    refuse_emptied(home.state_file, STORE_SCHEMA.title, used=home.ledger_file.exists())  # which is made after it
    store = stack.enter_context(open_store(home.state_file))
    refuse_emptied(home.ledger_file, LEDGER_SCHEMA.title, used=store.used())
    ledger = open_local_settlement(home.ledger_file, identity, home.channel_key(), threads=threads)
    return store, stack.enter_context(ledger)


async def _join(joiner: Joiner, *, must_join: bool, by_bootstrap: bool) -> None:
    try:
        await joiner.join()
    except TransportError as error:
        if must_join and by_bootstrap:
            raise
        entered = await joiner.join_by_known()
        if must_join and not entered:
            raise
        log.warning(
            "%s; %s, and trying again", error, "in by a peer known from before" if entered else "going on without"
        )
    else:
        if must_join and not joiner.has_bootstrap:
            await joiner.join_by_known()


def bootstrap_peers(addresses: Sequence[str]) -> list[PeerAddresses]:
    """Multiaddrs that end in /p2p/<peer id>, gathered by peer."""
    gathered: dict[PeerId, list[str]] = {}
    for address in addresses:
        where, _, peer = address.rpartition("/p2p/")
        gathered.setdefault(PeerId(peer), []).append(where)
    return [PeerAddresses(peer, tuple(where)) for peer, where in gathered.items()]


def advertised_addresses(network: Network, config: NodeConfig) -> tuple[str, ...]:
    """What others are told, without /p2p/: what the operator announces, else what the network found out."""
    return config.network.announce_addresses or network.reachability().addresses or network.addresses()


def membership_of(private: PrivateNetwork | None) -> Membership:
    if private is None:
        return Membership()
    return Membership(private.name, private.fingerprint, private.key)


def open_libp2p_network(
    identity: IdentityKey, config: NodeConfig, *, private: PrivateNetwork | None = None
) -> AbstractAsyncContextManager[Network]:
    """The real network, imported here, since that takes a moment."""
    from cocoon_p2p.net.libp2p import open_libp2p

    section = config.network
    return open_libp2p(
        identity.seed,
        listen=section.listen,
        agent=config.node.agent,
        dht_mode=cast(Any, section.dht_mode),
        validators=VALIDATORS,
        announce=section.announce_addresses,
        mdns=section.uses_mdns,
        upnp=section.uses_upnp,
        relay_server=cast(Any, section.relay),
        network_key=None if private is None else private.key,
    )


def open_onnx_engine(config: NodeConfig) -> AbstractAsyncContextManager[Engine]:
    """The real engine: ONNX Runtime in worker processes, none of which runs before a model is loaded."""
    from cocoon_p2p.execution.onnx_engine import open_engine

    section = config.execution
    return open_engine(
        threads=section.threads or None,
        batch_items_max=section.batch_items_max,
        device=section.providers,
        bytes_in_flight_max=config.provider.bytes_in_flight_max,
        output_bytes_max=section.output_bytes_max,
        job_seconds=section.job_seconds_max,
        job_memory_bytes=job_budget(section.job_memory, machine_bytes()),
        pool=pool_settings(config),
    )


def _keep_offers(
    nursery: trio.Nursery,
    serving: Serving | None,
    idling: Idling | None,
    refresh: Callable[[], None],
    upstreams: Upstreams | None,
) -> None:
    """What changes the offers tells the market."""
    if upstreams is not None:
        refresh()
        nursery.start_soon(upstreams.run)
    if serving is not None:
        serving.changed = refresh
        nursery.start_soon(serving.keep_prices)
    if idling is not None:
        idling.changed = refresh
        nursery.start_soon(idling.run)


async def _provide(
    ports: ProviderPorts | None,
    config: NodeConfig,
    backends: Backends,
    network: Network,
    market: MarketDriver,
    *,
    stack: AsyncExitStack,
) -> Idling | None:
    """Take jobs, unless this node serves nobody. The idle rules, if there are any, after a first look at the machine."""
    if ports is None:
        return None
    provider = JobProvider(ports)
    rules = idle_rules(config)
    idling = None
    if rules.any:
        machine = (backends.open_machine or open_system_machine)(rules)
        idling = Idling(rules, machine, ports.desk, provider, ports.clock, grace_s=config.idle.grace_s)
        await idling.look()
    network.set_handler(JOB_PROTOCOL, provider.serve_stream)
    stack.push_async_callback(_briefly, market.goodbye)
    stack.push_async_callback(_shielded, provider.shut_down)
    return idling


def _standing(network: Network, store: Store, clock: Clock, nursery: trio.Nursery) -> StandingKeeper:
    standing = StandingKeeper(network, store, clock)
    standing.restore()
    nursery.start_soon(standing.watch)
    return standing


@contextmanager
def _kept_journal(
    home: Home, config: NodeConfig, backends: Backends, market: MarketDriver, nursery: trio.Nursery
) -> Iterator[None]:
    """The market is written down meanwhile, where that is wanted and the file can be used: history stops no node."""
    section = config.market
    keeper = None
    try:
        if backends.keep_journal and section.history_hours:
            bytes_max = section.history_megabytes * MIB
            journal = open_market_journal(home.market_file, hours_max=section.history_hours, bytes_max=bytes_max)
            keeper = JournalKeeper(journal, market, backends.clock or SystemClock())
            nursery.start_soon(keeper.run)
    except ConfigError as error:
        log.warning("the history of the market is not kept: %s", error)
    try:
        yield
    finally:
        if keeper is not None:
            keeper.close()


def _market(
    ports: MarketPorts,
    identity: IdentityKey,
    config: NodeConfig,
    *,
    network_id: int,
    serving: Serving | None,
    desk: ProviderDesk,
) -> MarketDriver:
    announcer = Announcer(
        identity,
        agent=config.node.agent,
        settlement_network=network_id,
        sequence=ports.store.values.get(SEQUENCE_NAME),
        region=config.node.region,
        rng=ports.rng,
    )
    network = ports.network
    market = MarketDriver(
        ports,
        MarketBook(identity.peer_id),
        announcer,
        offers=lambda: (serving.offers() if serving else (), advertised_addresses(network, config)),
        manifests=lambda model_id: serving.manifest(model_id) if serving else None,
        announced=desk.announced,
    )
    desk.full_changed = market.refresh
    return market


def _installed_id(registry: ModelRegistry, name: str) -> ModelId | None:
    found = registry.find(name)
    return None if found is None else found.model_id


def _installed_manifest(registry: ModelRegistry, model_id: ModelId) -> bytes | None:
    found = registry.find(model_id)
    return None if found is None else found.manifest.encode()


async def _briefly(step: Callable[[], object]) -> None:
    with trio.CancelScope(shield=True, deadline=trio.current_time() + GOODBYE_S):
        await step()  # type: ignore[misc]


async def _shielded(shut_down: Callable[[float], object]) -> None:
    """Also when the node is cancelled: clients are told before their provider goes."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + SHUTDOWN_GRACE_S + GOODBYE_S):
        await shut_down(SHUTDOWN_GRACE_S)  # type: ignore[misc]
