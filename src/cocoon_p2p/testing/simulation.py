"""Whole nodes in one process: real homes, stores, ledgers and protocols over a simulated network, with a virtual clock.

    async with Simulation(tmp_path, seed=1) as sim:
        provider = await sim.start("p", model=echo)
        client = await sim.start("c")
        outputs = await client.run("echo", {"x": …})

Run it under `trio.testing.MockClock(autojump_threshold=0)`: nothing here waits for real time.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cocoon_p2p.assembly import VALIDATORS, Backends
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.port import Device, Engine, ModelStatus
from cocoon_p2p.generation import request_of
from cocoon_p2p.home import Home
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.machine.port import Machine
from cocoon_p2p.models.check import check_inputs
from cocoon_p2p.models.layout import read_manifest
from cocoon_p2p.models.manifest import Manifest
from cocoon_p2p.net.memory import MemoryHub
from cocoon_p2p.net.port import Network
from cocoon_p2p.node import Node
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.tensors import Payload, decode_payload, payload_bytes, write_payload
from cocoon_p2p.testing.simulated_writing import SimulatedStream, Writing

EPOCH = 1_800_000_000.0
"""Unix time at which simulations begin."""

Behaviour = Callable[[Payload], Payload]
"""What a simulated model computes. May raise ExecutionError."""


class VirtualClock:
    """trio's clock, and a wall clock that goes with it."""

    def __init__(self, *, wrong_by_s: float = 0.0) -> None:
        self.wrong_by_s = wrong_by_s

    def now(self) -> float:
        return trio.current_time()

    def unix(self) -> float:
        return EPOCH + trio.current_time() + self.wrong_by_s


class PlainBuffer:
    """An `InputBuffer` in this process's memory."""

    def __init__(self, size: int) -> None:
        self._bytes = bytearray(size)
        self.released = False

    @property
    def view(self) -> memoryview:
        return memoryview(self._bytes)

    def release(self) -> None:
        self.released = True


@dataclass(slots=True)
class PlainResult:
    """An `ExecutionResult` in this process's memory."""

    payload: memoryview
    items: int
    queue_s: float
    execute_s: float

    def release(self) -> None:
        pass

    def __enter__(self) -> PlainResult:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()


@dataclass
class ScriptedEngine:
    """An `Engine` whose models are Python functions that take virtual time; one job at a time, as one worker does."""

    behaviour: Behaviour
    execute_s: float = 0.01
    manifests: dict[ModelId, Manifest] = field(default_factory=dict)
    jobs_done: int = 0
    buffers: list[PlainBuffer] = field(default_factory=list)
    writing: Writing = field(default_factory=Writing)
    """How its generating models write."""
    streams: list[SimulatedStream] = field(default_factory=list)
    """Every answer that it ever began."""
    _turn: trio.Lock = field(default_factory=trio.Lock)

    async def load(self, model_id: ModelId, folder: Path, *, keep: bool | None = None) -> ModelStatus:
        self.manifests[model_id] = read_manifest(folder, model_id)
        return self.models()[-1]

    async def unload(self, model_id: ModelId) -> None:
        self.manifests.pop(model_id, None)

    def models(self) -> tuple[ModelStatus, ...]:
        device = Device("simulated", "a Python function in virtual time")
        return tuple(
            ModelStatus(model_id, device, True, 0, self._running(), self.jobs_done, self.execute_s, None)
            for model_id in self.manifests
        )

    def _running(self) -> int:
        return int(self._turn.locked()) + sum(not each.ended.is_set() for each in self.streams)

    def input_buffer(self, payload_bytes: int) -> PlainBuffer:
        buffer = PlainBuffer(payload_bytes)
        self.buffers.append(buffer)
        return buffer

    async def run(
        self, model_id: ModelId, payload: PlainBuffer, *, items_max: int, client: PeerId | None = None
    ) -> PlainResult:
        asked = trio.current_time()
        async with self._turn:
            started = trio.current_time()
            await trio.sleep(self.execute_s)
            try:
                given = decode_payload(payload.view)
            except ValueError as error:
                raise ExecutionError(str(error), code="INPUT") from error
            items = check_inputs(self.manifests[model_id], given)
            if items > items_max:
                raise ExecutionError(f"{items} items; {items_max} were paid for", code="ITEMS")
            answer = self.behaviour(given)
        self.jobs_done += 1
        payload.release()
        encoded = bytearray(payload_bytes(answer))
        write_payload(answer, memoryview(encoded))
        return PlainResult(memoryview(encoded), items, started - asked, trio.current_time() - started)

    async def generate(
        self,
        model_id: ModelId,
        payload: PlainBuffer,
        *,
        items_max: int,
        items_allowed: int,
        client: PeerId | None = None,
    ) -> SimulatedStream:
        try:
            request = request_of(decode_payload(payload.view))
        except ValueError as error:
            raise ExecutionError(str(error), code="INPUT") from error
        payload.release()
        stream = SimulatedStream(self.writing, request, items_max=items_max, items_allowed=items_allowed)
        self.streams.append(stream)
        return stream


@dataclass
class RunningNode:
    """A node of a simulation, its engine, and the means to end it."""

    name: str
    node: Node
    engine: ScriptedEngine
    clock: VirtualClock
    home: Path
    scope: trio.CancelScope
    stop: trio.Event
    stopped: trio.Event

    async def leave(self) -> None:
        """Stop in good order."""
        self.stop.set()
        await self.stopped.wait()


class Simulation:
    """A network of nodes that are started and stopped at will. The first one is everybody's bootstrap node."""

    def __init__(self, folder: Path, *, seed: int = 0, latency_s: float = 0.001, loss: float = 0.0) -> None:
        self.hub = MemoryHub(seed=seed, latency_s=latency_s, loss=loss)
        self.rng = random.Random(seed)
        self.nodes: dict[str, RunningNode] = {}
        self._folder = folder
        self._nursery_context = trio.open_nursery()
        self._nursery: trio.Nursery
        self._bootstrap: tuple[str, ...] = ()
        self._journals: set[str] = set()
        self._machines: dict[str, Machine] = {}
        self._places: dict[PeerId, str] = {}

    async def __aenter__(self) -> Simulation:
        self._nursery = await self._nursery_context.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._nursery.cancel_scope.cancel()
        return await self._nursery_context.__aexit__(kind, error, trace)

    async def start(
        self,
        name: str,
        *,
        model: Path | None = None,
        behaviour: Behaviour = lambda payload: payload,
        execute_s: float = 0.01,
        wrong_clock_s: float = 0.0,
        config: NodeConfig | None = None,
        keep_journal: bool = False,
        machine: Machine | None = None,
        at: str | None = None,
    ) -> RunningNode:
        """Start a node; one that serves when `model` (the folder of an installed model) is given. A name that was used
        before comes back with its old home. With `keep_journal` it writes down what it hears of the market.
        `machine` is what its idle rules look at; `at` is its address, where it matters that it is public or not."""
        if keep_journal:
            self._journals.add(name)
        if machine is not None:
            self._machines[name] = machine
        home = Home(self._folder / name)
        if not home.initialised:
            _write_keys(home, name)
            home.init()
        if at is not None:
            self._places[home.identity().peer_id] = at
        if model is not None and not (home.models_folder / model.name).exists():
            shutil.copytree(model, home.models_folder / model.name)
        config = config or NodeConfig()
        config = replace(
            config,
            network=replace(config.network, listen=("/memory/0",)),
            provider=replace(config.provider, serve=model is not None),
        )
        engine = ScriptedEngine(behaviour, execute_s)
        clock = VirtualClock(wrong_by_s=wrong_clock_s)
        running: RunningNode = await self._nursery.start(self._run, name, home, config, engine, clock)
        self.nodes[name] = running
        if not self._bootstrap:
            self._bootstrap = tuple(running.node.addresses())
        return running

    async def kill(self, name: str) -> None:
        """As `kill -9`: no goodbye, no clean-up, connections cut."""
        running = self.nodes.pop(name)
        self.hub.kill(running.node.peer_id)
        running.scope.cancel()
        await running.stopped.wait()

    async def _run(
        self,
        name: str,
        home: Home,
        config: NodeConfig,
        engine: ScriptedEngine,
        clock: VirtualClock,
        *,
        task_status: trio.TaskStatus[RunningNode],
    ) -> None:
        stopped = trio.Event()
        backends = Backends(
            open_network=self._open_network,
            open_engine=lambda _: _already_open(engine),
            clock=clock,
            rng=random.Random(self.rng.random()),
            keep_journal=name in self._journals,
            open_machine=lambda _: self._machines[name],
        )
        try:
            with trio.CancelScope() as scope:
                bootstrap = () if config.network.bootstrap else self._bootstrap
                async with Node.open(home.path, config=config, bootstrap=bootstrap, backends=backends) as node:
                    stop = trio.Event()
                    task_status.started(RunningNode(name, node, engine, clock, home.path, scope, stop, stopped))
                    await stop.wait()
        finally:
            stopped.set()

    def _open_network(self, identity: IdentityKey, config: NodeConfig) -> AbstractAsyncContextManager[Network]:
        place = self._places.get(identity.peer_id)
        return self.hub.open(identity.peer_id, listen=() if place is None else (place,), validators=VALIDATORS)


@asynccontextmanager
async def _already_open(engine: ScriptedEngine) -> AsyncIterator[Engine]:
    yield engine  # type: ignore[misc]


def _write_keys(home: Home, name: str) -> None:
    """Keys made of the node's name, so that a simulation repeats."""
    home.path.mkdir(mode=0o700, parents=True)
    for file in (home.identity_file, home.channel_file):
        seed = hashlib.sha256(f"{name}/{file.name}".encode()).digest()
        file.touch(mode=0o600)
        file.write_bytes(
            Ed25519PrivateKey.from_private_bytes(seed).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
