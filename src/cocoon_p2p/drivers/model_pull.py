"""Models that come from peers: the manifest, room on the disk, the pieces, and then a model like any other."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.blob_fetch import Fetch, FetchTerms, ask_manifest
from cocoon_p2p.drivers.blob_holders import BlobAnnouncing, HolderFinder
from cocoon_p2p.drivers.blob_serve import BlobPorts, BlobServer
from cocoon_p2p.drivers.blob_shelf import BlobShelf
from cocoon_p2p.errors import CocoonError, ConfigError, RemoteProtocolError, TransportError, one_line
from cocoon_p2p.ids import ModelId, PeerId, model_id_of
from cocoon_p2p.models.manifest import Manifest, ManifestError, parse_manifest
from cocoon_p2p.models.partial import open_partial, partial_manifest
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry, Offer
from cocoon_p2p.models.wanted import Wanted, forget_wanted, read_wanted, remember_wanted
from cocoon_p2p.net.port import PeerAddresses
from cocoon_p2p.policy.bandwidth import Bandwidth

log = logging.getLogger(__name__)

TICK_S = 0.5
_NEWEST = 0.2
"""Weight of the newest half second in the speed that is shown."""
_NAMES_TRIED_MAX = 100

Phase = Literal["searching", "checking", "fetching", "installing", "done", "failed"]


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is."""

    model_id: ModelId
    name: str
    phase: Phase = "searching"
    """checking: what was there from before is hashed again."""
    done_bytes: int = 0
    total_bytes: int = 0
    """0 while the manifest is not here."""
    bytes_s: float = 0.0
    holders: int = 0
    """That are being asked."""
    local_bytes: int = 0
    """Of those that came since the start, from the local network."""
    outside_bytes: int = 0
    note: str = ""
    """What the operator should know of a model that came."""
    error: str = ""
    code: str = ""
    hint: str = ""

    @property
    def left_s(self) -> float | None:
        """None when it cannot be told."""
        return (self.total_bytes - self.done_bytes) / self.bytes_s if self.bytes_s > 0 else None


@dataclass(frozen=True, slots=True)
class PullPorts:
    """What pulls need. `offer` makes what is decided about a model that came from peers, of its name; `download` bounds what
    comes from outside of the local network."""

    blob: BlobPorts
    home: Path
    registry: ModelRegistry
    own: PeerId
    shelf: BlobShelf
    server: BlobServer
    finder: HolderFinder
    announcing: BlobAnnouncing
    download: Bandwidth
    rng: random.Random
    offer: Callable[[str], Offer]
    arrived: Callable[[InstalledModel], Awaitable[str]]
    """What is done with a model that came; what it returns is for the operator, "" for nothing."""


@dataclass(slots=True)
class Pull:
    """One model on its way."""

    state: PullProgress
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    turned: trio.Event = field(default_factory=trio.Event)
    """Set, and another put in its place, when it comes to another phase."""
    over: trio.Event = field(default_factory=trio.Event)
    holders: list[PeerAddresses] = field(default_factory=list)
    """That were named by who asked for it."""
    is_stopped: bool = False
    """By the user."""
    model: InstalledModel | None = None
    error: CocoonError | None = None
    fetch: Fetch | None = None


class ModelPuller:
    """Pulls run in `nursery`, one for a model at a time, and go on when nobody waits for them; those that are `remember`ed go on
    after the node's next start."""

    def __init__(self, ports: PullPorts, nursery: trio.Nursery) -> None:
        self._ports = ports
        self._nursery = nursery
        self._pulls: dict[ModelId, Pull] = {}
        ports.server.found = self._found

    def begin(
        self, model_id: ModelId, *, name: str, manifest: bytes | None = None, holders: Sequence[PeerAddresses] = ()
    ) -> Pull:
        """Fetch a model, and call it `name` or the like. `manifest` where it is known; `holders` are asked beside those that
        are found. One that is under way already goes on."""
        if self.is_running(model_id):
            running = self._pulls[model_id]
            running.holders += holders
            if running.fetch is not None:
                running.fetch.add(holders)
            return running
        pull = self._pulls[model_id] = Pull(PullProgress(model_id, name), holders=list(holders))
        self._nursery.start_soon(self._run, pull, manifest)
        return pull

    async def remember(self, wanted: Wanted) -> None:
        """From now on, until it is here, or stopped, or can never be, this model is one that `wanted` has. Raises ConfigError."""
        try:
            await self._ports.blob.threads.run(remember_wanted, self._ports.home, wanted)
        except OSError as error:
            raise ConfigError(f"{self._ports.home} cannot be written: {error.strerror or error}") from error

    async def wanted(self) -> tuple[Wanted, ...]:
        """What was asked for and has not come, of the time before this node's start, too."""
        return await self._ports.blob.threads.run(read_wanted, self._ports.home)

    async def wait(self, pull: Pull, progress: Callable[[PullProgress], None] = lambda state: None) -> InstalledModel:
        """Until it is over. Raises CocoonError: NO_SOURCE, CONFIG (no room, cannot be written), STOPPED."""
        while not pull.over.is_set():
            progress(pull.state)
            with trio.move_on_after(TICK_S):
                await pull.turned.wait()
        progress(pull.state)
        if pull.model is None:
            raise pull.error or CocoonError("the pull was stopped; what came is kept", code="STOPPED")
        return pull.model

    def states(self) -> list[PullProgress]:
        """Of all pulls since the start, also those that are over."""
        return [pull.state for pull in self._pulls.values()]

    def is_running(self, model_id: ModelId) -> bool:
        pull = self._pulls.get(model_id)
        return pull is not None and not pull.over.is_set()

    def stop(self, model_id: ModelId) -> bool:
        """What came is kept, and the next start does not go on with it. False: it was not under way."""
        if not self.is_running(model_id):
            self._nursery.start_soon(self._forget, model_id)
            return False
        self._pulls[model_id].is_stopped = True
        self._pulls[model_id].scope.cancel()
        return True

    async def share_changed(self, model_id: ModelId) -> None:
        """Others may fetch an installed model, or may not any more: those that are at it hear of that."""
        self._ports.shelf.forget(model_id)
        await self._ports.server.replaced(model_id)
        self._ports.announcing.announce()

    async def _forget(self, model_id: ModelId) -> None:
        with trio.CancelScope(shield=True):
            await self._ports.blob.threads.run(forget_wanted, self._ports.home, model_id)

    def _found(self, model_id: ModelId, peer: PeerId) -> None:
        """Somebody fetches it from us who shares it, too."""
        pull = self._pulls.get(model_id)
        if pull is not None and pull.fetch is not None:
            pull.fetch.opened_by(peer)

    # --- one pull ---

    async def _run(self, pull: Pull, manifest: bytes | None) -> None:
        try:
            with pull.scope:
                pull.model = await self._pull(pull, manifest)
        except CocoonError as error:
            pull.error = error
            log.info("model %s did not come: %s", pull.state.model_id, one_line(error))
        finally:
            # Not where the node ends, nor where nobody was there who has it: the next start goes on.
            if pull.model is not None or pull.is_stopped or (pull.error is not None and not pull.error.retryable):
                await self._forget(pull.state.model_id)
            if pull.model is not None:
                self._note(pull, phase="done", bytes_s=0.0)
            else:
                why = pull.error or CocoonError("it was stopped; what came is kept", code="STOPPED")
                self._note(pull, phase="failed", bytes_s=0.0, error=why.message, code=why.code, hint=why.hint or "")
            pull.fetch = None
            pull.over.set()
            pull.turned.set()

    async def _pull(self, pull: Pull, given: bytes | None) -> InstalledModel:
        ports, model_id = self._ports, pull.state.model_id
        here = await ports.blob.threads.run(ports.registry.find, model_id)
        if here is not None:
            return here
        manifest = await self._manifest(pull, given)
        if manifest.upstream is not None:
            raise ConfigError(
                f"model {model_id[:12]}… runs on a cluster of its provider's: there are no files to fetch",
                hint="cocoon-node run, or generate, has it done there",
            )
        self._note(pull, phase="checking", total_bytes=manifest.size)

        def advance(size: int) -> None:
            self._note(pull, done_bytes=pull.state.done_bytes + size)

        partial = await ports.blob.threads.run(open_partial, ports.home, manifest, advance=advance)
        terms = FetchTerms(
            ports.own,
            ports.shelf.shares,
            ports.download,
            ports.rng,
            lambda change: ports.server.changed(model_id, change),
        )
        fetch = pull.fetch = Fetch(ports.blob, partial, terms)
        self._note(pull, phase="fetching")
        if ports.shelf.shares:
            ports.shelf.arriving[model_id] = fetch
            ports.announcing.announce()
        try:
            await self._fetch(pull, fetch)
            self._note(pull, phase="installing", done_bytes=manifest.size)
            with trio.CancelScope(shield=True):  # a folder that was moved is there to be shared
                model = await ports.blob.threads.run(
                    lambda: partial.install(ports.registry, ports.offer(self._free_name(pull.state.name, model_id)))
                )
        finally:
            ports.shelf.arriving.pop(model_id, None)
            with trio.CancelScope(shield=True):
                await ports.server.replaced(model_id)
        ports.announcing.announce()
        self._note(pull, name=model.name, note=await ports.arrived(model))
        return model

    async def _fetch(self, pull: Pull, fetch: Fetch) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._search, pull, fetch)
            nursery.start_soon(self._measure, pull, fetch)
            try:
                await fetch.run(self._ports.finder.local())
            except CocoonError as error:
                pull.error = error
            nursery.cancel_scope.cancel()
        self._note_fetch(pull, fetch, pull.state.bytes_s)
        if pull.error is not None:
            raise pull.error

    async def _search(self, pull: Pull, fetch: Fetch) -> None:
        """More and more rarely."""
        model_id, wait_s = pull.state.model_id, limits.BLOB_SEARCH_FIRST_S
        while True:
            fetch.add(pull.holders)
            fetch.add(self._ports.finder.offering(model_id))
            fetch.add(await self._ports.finder.search(model_id, fetch.known))
            await trio.sleep(wait_s)
            wait_s = min(2 * wait_s, limits.BLOB_SEARCH_MAX_S)
            fetch.add([PeerAddresses(peer, ()) for peer in self._ports.finder.local()])

    async def _measure(self, pull: Pull, fetch: Fetch) -> None:
        before = fetch.layout.bytes_of(fetch.have)
        speed: float | None = None
        while True:
            done = fetch.layout.bytes_of(fetch.have)
            if done > before or speed is not None:
                newest = (done - before) / TICK_S
                speed = newest if speed is None else speed + _NEWEST * (newest - speed)
            before = done
            self._note_fetch(pull, fetch, speed or 0.0)
            await trio.sleep(TICK_S)

    def _note_fetch(self, pull: Pull, fetch: Fetch, speed: float) -> None:
        machine = fetch.machine
        self._note(
            pull,
            done_bytes=fetch.layout.bytes_of(fetch.have),
            bytes_s=speed,
            holders=sum(source.answered for source in machine.sources()),
            local_bytes=machine.local_bytes,
            outside_bytes=machine.outside_bytes,
        )

    async def _manifest(self, pull: Pull, given: bytes | None) -> Manifest:
        """From before, from whoever calls, or from a holder. Raises CocoonError."""
        model_id = pull.state.model_id
        kept = await self._ports.blob.threads.run(partial_manifest, self._ports.home, model_id)
        if kept is not None:
            return kept
        if given is not None and model_id_of(given) == model_id:
            return _parsed(model_id, given)
        failures: list[str] = []
        asked: set[PeerId] = set()
        near = [PeerAddresses(peer, ()) for peer in self._ports.finder.local()]
        deadline = self._ports.blob.clock.now() + limits.BLOB_ALONE_S
        wait_s = limits.BLOB_SEARCH_FIRST_S
        while True:
            for holder in (*pull.holders, *await self._ports.finder.search(model_id, lambda: asked), *near):
                if holder.peer not in asked:
                    asked.add(holder.peer)
                    found = await self._ask_manifest(holder, model_id, failures)
                    if found is not None:
                        return found
            if self._ports.blob.clock.now() >= deadline:
                break
            await trio.sleep(wait_s)
            wait_s = min(2 * wait_s, limits.BLOB_SEARCH_MAX_S)
            asked.clear()
        why = f": {failures[-1]}" if failures else ""
        raise CocoonError(
            f"nobody who has model {model_id[:12]}… was found{why}",
            code="NO_SOURCE",
            retryable=True,
            hint="name somebody who has it: --from PEER; `cocoon-node offers` shows what is on offer",
        )

    async def _ask_manifest(self, holder: PeerAddresses, model_id: ModelId, failures: list[str]) -> Manifest | None:
        # SPEC blob/1 §4.2
        try:
            raw = await ask_manifest(self._ports.blob, holder, model_id)
        except (TransportError, RemoteProtocolError) as error:
            failures.append(one_line(error))
            return None
        if raw is None or model_id_of(raw) != model_id:
            return None
        return _parsed(model_id, raw)

    def _free_name(self, name: str, model_id: ModelId) -> str:
        """What it is called elsewhere, as far as that is a name here and no other model's."""
        taken = {model.name for model in self._ports.registry.list() if model.model_id != model_id}
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[: limits.NAME_CHARS_MAX - 4] or model_id[:12]
        tried = (plain if number == 1 else f"{plain}-{number}" for number in range(1, _NAMES_TRIED_MAX))
        return next((each for each in tried if each not in taken), model_id[:16])

    def _note(self, pull: Pull, **changes: object) -> None:
        pull.state = replace(pull.state, **changes)  # type: ignore[arg-type]
        if "phase" in changes:
            pull.turned.set()
            pull.turned = trio.Event()


def _parsed(model_id: ModelId, raw: bytes) -> Manifest:
    """Raises ConfigError: the hash is right, so nobody has a better one."""
    try:
        return parse_manifest(raw)
    except ManifestError as error:
        raise ConfigError(f"the manifest of model {model_id[:12]}… is refused: {error!s:.200}") from error
