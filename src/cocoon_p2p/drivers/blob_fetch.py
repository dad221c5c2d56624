"""blob/1 as a fetcher: one model from many holders, each with a stream and a task of its own, onto the disk."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import assert_never

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.alarm import Alarm
from cocoon_p2p.drivers.blob_checks import Checked, PieceChecks
from cocoon_p2p.drivers.blob_serve import BlobPorts, is_local
from cocoon_p2p.drivers.hearsay import open_announced
from cocoon_p2p.drivers.outbox import Outbox
from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.errors import CocoonError, EndOfStream, RemoteProtocolError, TransportError, one_line
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.models.partial import PartialModel
from cocoon_p2p.net.port import PeerAddresses, Stream
from cocoon_p2p.policy.bandwidth import Bandwidth
from cocoon_p2p.policy.reputation import fault_of_code
from cocoon_p2p.proto.blob_effects import Ask, Changed, CheckHashes, CheckPiece, Done, FetchEffect, Leave
from cocoon_p2p.proto.blob_fetch import BlobFetch, FetchFacts
from cocoon_p2p.wire.blob import (
    BLOB_PROTOCOL,
    Answer,
    GetManifest,
    Manifest,
    Open,
    decode_message,
)
from cocoon_p2p.wire.blob_layout import BlobLayout

log = logging.getLogger(__name__)

_AGAIN_S = 30.0
"""A holder that could not be reached, or had nothing, is asked again after so long."""


@dataclass(frozen=True, slots=True)
class FetchTerms:
    """`shares`: others get from here what came; `changed` hears of it, for them."""

    own: PeerId
    shares: bool
    download: Bandwidth
    rng: random.Random
    changed: Callable[[Changed], None]


@dataclass(slots=True)
class _Link:
    """A holder that is being asked."""

    scope: trio.CancelScope
    outbox: Outbox | None = None


class Fetch:
    """One model on its way. `run` it; meanwhile `add` holders. A `Shared` of the shelf."""

    def __init__(self, ports: BlobPorts, partial: PartialModel, terms: FetchTerms) -> None:
        self._ports = ports
        self._terms = terms
        self.store = partial
        self.manifest = partial.manifest.encode()
        facts = FetchFacts(Open(partial.model_id, terms.shares), terms.own, partial.have, partial.hashed)
        self.machine = BlobFetch(partial.layout, facts, rng=terms.rng, bandwidth=terms.download)
        self._links: dict[PeerId, _Link] = {}
        self._not_before: dict[PeerId, float] = {}
        """When those that had nothing may be asked again; never, those that lied."""
        self._checks = PieceChecks(ports.threads, partial.keep_piece, self._on_checked)
        self._alarm = Alarm(lambda: self.machine.next_deadline(ports.clock.now()), self._on_timer, ports.clock.now)
        self._done = trio.Event()
        self._failed: CocoonError | None = None
        self._nursery: trio.Nursery | None = None
        self._last_failure = ""

    # --- for the shelf ---

    @property
    def layout(self) -> BlobLayout:
        return self.store.layout

    @property
    def have(self) -> int:
        return self.machine.have

    @property
    def fetching(self) -> int:
        return self.machine.fetching

    # --- running ---

    async def run(self, local: Sequence[PeerId]) -> None:
        """Until all is here. `local`: who on the local network is asked first. Raises CocoonError: nobody has it
        (NO_SOURCE), the disk is full."""
        if self.have == self.layout.full:
            return
        self.machine.expect_local(local, self._ports.clock.now())
        async with open_plain_nursery() as nursery:
            self._nursery = nursery
            self.add([PeerAddresses(peer, ()) for peer in local])
            nursery.start_soon(self._alarm.run)
            nursery.start_soon(self._watch)
            nursery.start_soon(self._checks.run)
            await self._done.wait()
            self._nursery = None
            for link in self._links.values():
                link.scope.cancel()
            nursery.cancel_scope.cancel()
        if self._failed is not None:
            raise self._failed

    async def _watch(self) -> None:
        """Gives up when nobody is there for long."""
        supplied_at = self._ports.clock.now()
        while True:
            await trio.sleep(1.0)
            if self.machine.is_supplied():
                supplied_at = self._ports.clock.now()
            elif self._ports.clock.now() - supplied_at >= limits.BLOB_ALONE_S:
                why = f"; the last that was tried: {self._last_failure}" if self._last_failure else ""
                self._fail(
                    CocoonError(
                        f"nobody who has what is missing of model {self.store.model_id[:12]}… can be reached{why}",
                        code="NO_SOURCE",
                        retryable=True,
                        hint="what is here already is kept; pull it again when somebody who has it is there",
                    )
                )

    def add(self, holders: Sequence[PeerAddresses]) -> None:
        """These may have it."""
        now = self._ports.clock.now()
        for holder in holders:
            if self._nursery is None or holder.peer in self._links or holder.peer == self._terms.own:
                continue
            near = is_local(self._ports.network, holder.peer)
            count = sum(1 for peer in self._links if is_local(self._ports.network, peer) == near)
            room = limits.BLOB_LOCAL_SOURCES_MAX if near else limits.BLOB_SOURCES_MAX
            if count < room and now >= self._not_before.get(holder.peer, now):
                self._links[holder.peer] = _Link(trio.CancelScope())
                self._nursery.start_soon(self._ask_holder, holder, self._links[holder.peer])

    def known(self) -> set[PeerId]:
        """Those that are being asked."""
        return set(self._links)

    def opened_by(self, peer: PeerId) -> None:
        """It fetches the model from us, and has some of it for us."""
        if is_local(self._ports.network, peer):
            self.machine.opened_by(peer, self._ports.clock.now())
        self._not_before.pop(peer, None)
        self.add([PeerAddresses(peer, ())])

    # --- one holder ---

    async def _ask_holder(self, holder: PeerAddresses, link: _Link) -> None:
        peer, stream = holder.peer, None
        self._not_before[peer] = self._ports.clock.now() + _AGAIN_S
        try:
            with link.scope:
                stream = await open_announced(self._ports.network, peer, holder.addresses, BLOB_PROTOCOL)
                await self._talk(stream, link)
        except TransportError as error:
            self._note(peer, one_line(error))
        except RemoteProtocolError as error:
            self._punish(peer, error.code)
            self._note(peer, one_line(error))
        finally:
            del self._links[peer]
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                if stream is not None:
                    await stream.reset() if link.outbox is None else await stream.aclose()
            self._carry_out(self.machine.left(peer, self._ports.clock.now()))

    async def _talk(self, stream: Stream, link: _Link) -> None:
        """Raises TransportError, RemoteProtocolError."""
        failure: CocoonError | None = None
        async with open_plain_nursery() as nursery:
            link.outbox = Outbox(stream)
            nursery.start_soon(link.outbox.run)
            local = is_local(self._ports.network, stream.peer)
            self._carry_out(self.machine.joined(stream.peer, self._ports.clock.now(), local=local))
            try:
                await self._read(stream)
            except EndOfStream:
                pass
            except (TransportError, RemoteProtocolError) as error:
                failure = error  # raised below: in a nursery that is cancelled meanwhile it would be part of a group
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _read(self, stream: Stream) -> None:
        """Raises TransportError (EndOfStream), RemoteProtocolError."""
        while True:
            message = decode_message(await stream.receive())
            if not isinstance(message, Answer):
                raise RemoteProtocolError(f"{type(message).__name__} is for a fetcher to say", code="UNEXPECTED")
            self._carry_out(self.machine.handle(stream.peer, message, self._ports.clock.now()))
            del message  # a piece's memory is used again
            await self._checks.room()

    def _note(self, peer: PeerId, why: str) -> None:
        self._last_failure = f"peer {peer}: {why}"
        log.info("model %s: %s", self.store.model_id, self._last_failure)

    def _punish(self, peer: PeerId, code: str) -> None:
        """It lied, or broke a rule: it is not asked again."""
        self._not_before[peer] = float("inf")
        self._ports.standing.penalise(peer, fault_of_code(code))

    # --- effects ---

    async def _on_timer(self) -> None:
        self._carry_out(self.machine.handle_timer(self._ports.clock.now()))

    def _carry_out(self, effects: Sequence[FetchEffect]) -> None:
        for effect in effects:
            match effect:
                case Ask(peer, message):
                    link = self._links.get(peer)
                    if link is not None and link.outbox is not None:
                        with suppress(TransportError):  # its reader sees it, too
                            link.outbox.put(message.encode())
                case CheckPiece():
                    self._checks.put(effect)
                case CheckHashes(peer, file, hashes):
                    if self._nursery is not None:
                        self._nursery.start_soon(self._check_hashes, peer, file, hashes)
                case Leave(peer, fault, why):
                    self._leave(peer, fault, why)
                case Changed():
                    self._terms.changed(effect)
                case Done():
                    self._done.set()
                case _:
                    assert_never(effect)
        self._alarm.poke()

    def _leave(self, peer: PeerId, fault: str, why: str) -> None:
        self._note(peer, why)
        if fault:
            self._punish(peer, fault)
        link = self._links.get(peer)
        if link is not None:
            link.scope.cancel()

    def _on_checked(self, pieces: Sequence[Checked]) -> None:
        # SPEC blob/1 §4.9
        for each in pieces:
            if each.error is not None:
                self._fail(each.error)
            else:
                now = self._ports.clock.now()
                self._carry_out(self.machine.piece_checked(each.peer, each.piece, each.ok, now))

    async def _check_hashes(self, peer: PeerId, file: int, hashes: bytes) -> None:
        try:
            ok = await self._ports.threads.run(self.store.keep_hashes, file, hashes)
        except OSError as error:
            self._fail(CocoonError(f"{self.store.folder}: {error.strerror or error}", code="CONFIG"))
            return
        self._carry_out(self.machine.hashes_checked(peer, file, ok, self._ports.clock.now()))

    def _fail(self, error: CocoonError) -> None:
        self._failed = self._failed or error
        self._done.set()


async def ask_manifest(ports: BlobPorts, holder: PeerAddresses, model_id: ModelId) -> bytes | None:
    """What a holder gives for a model's manifest, not verified yet; None when it has none. Raises TransportError,
    RemoteProtocolError (and it loses standing)."""
    stream = await open_announced(ports.network, holder.peer, holder.addresses, BLOB_PROTOCOL)
    try:
        with trio.fail_after(limits.BLOB_STATUS_TIMEOUT_S):
            await stream.send(GetManifest(model_id).encode())
            answer = decode_message(await stream.receive())
            await stream.aclose()
    except trio.TooSlowError:
        await stream.reset()
        raise TransportError(f"peer {holder.peer} does not answer on {BLOB_PROTOCOL}", outcome_known=True) from None
    except RemoteProtocolError as error:
        ports.standing.penalise(holder.peer, fault_of_code(error.code))
        await stream.reset()
        raise
    except trio.Cancelled:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await stream.reset()
        raise
    return answer.data if isinstance(answer, Manifest) else None
