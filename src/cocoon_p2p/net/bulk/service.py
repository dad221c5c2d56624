"""Getting data sockets, giving them, and keeping their number small (data/1 §3, §6, §7)."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio

from cocoon_p2p import limits
from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.bulk.lanes import Connection, Lane, Sidecar
from cocoon_p2p.net.bulk.messages import (
    GREETING_BYTES,
    INVITATION_BYTES,
    PROOF_BYTES,
    Answer,
    Invitation,
    decode_greeting,
    decode_invitation,
    decode_request,
    encode_request,
    request_bytes,
)
from cocoon_p2p.net.bulk.sockets import DataInlet, DataOutlet, Traffic
from cocoon_p2p.net.port import Bytes
from cocoon_p2p.net.supervisor import Counters, deadline, run_guarded
from cocoon_p2p.net.transport.pipe import TcpPipe

logger = logging.getLogger("cocoon_p2p.net")

_SWEEP_S = limits.DATA_IDLE_SENDER_S / 3


class ControlStream(Protocol):
    """As yamux's MuxStream."""

    @property
    def connection(self) -> object: ...

    async def read_exactly(self, size: int) -> bytes: ...

    async def write(self, *parts: Bytes) -> None: ...

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


class Link(Protocol):
    """As the switch's Link."""

    @property
    def connection(self) -> Connection: ...

    @property
    def ended(self) -> trio.Event: ...

    @property
    def is_punched(self) -> bool: ...


@dataclass(slots=True, eq=False)
class _Expected:
    """A token that is out."""

    sidecar: Sidecar
    invitation: Invitation
    is_ours_to_send: bool
    expires_at: float
    outlet: DataOutlet | None = None
    arrived: trio.Event = field(default_factory=trio.Event)


class DataSockets:
    """All data sockets of one node. `run` and the tasks it starts live in `nursery`.

    `dial` makes a plain TCP connection to an address, `open_control` a stream of DATA_PROTOCOL over a connection, and
    `listens_at` says where a peer listens on the machine of an address, if that is known.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        counters: Counters,
        *,
        dial: Callable[[str], Awaitable[TcpPipe]],
        open_control: Callable[[Connection], Awaitable[ControlStream]],
        listens_at: Callable[[PeerId, str], str | None] = lambda peer, address: None,
    ) -> None:
        self._nursery = nursery
        self._counters = counters
        self._dial = dial
        self._open_control = open_control
        self._listens_at = listens_at
        self._sidecars: dict[object, Sidecar] = {}
        self._tokens: dict[bytes, _Expected] = {}
        self._off_until: OrderedDict[PeerId, float] = OrderedDict()
        self._unclaimed = 0

    # --- for the switch ----------------------------------------------------------------------------------------------

    async def watch(self, link: Link) -> None:
        """Runs as long as the connection: when it ends, its data sockets do."""
        sidecar = self._sidecar(link)
        try:
            await link.ended.wait()
        finally:
            sidecar.close()
            self._sidecars.pop(link.connection, None)

    def lane(self, link: Link) -> Lane:
        """For one stream over this connection."""
        return Lane(self._sidecar(link), self._ask, self.turn_off)

    def traffic(self, connection: object) -> Traffic:
        """What went by data socket beside a connection, so far."""
        sidecar = self._sidecars.get(connection)
        return Traffic() if sidecar is None else sidecar.traffic

    async def take_pipe(self, pipe: TcpPipe) -> bool:
        """A socket that arrived and begins with MAGIC, which is not read yet. It is closed, or kept when this returns;
        False if it came from somebody who has no token of ours."""
        if self._unclaimed >= limits.DATA_UNCLAIMED_MAX:
            self._refuse(pipe, "data_socket_unclaimed_full")
            return True
        self._unclaimed += 1
        kept = False
        try:
            token = await self._read_greeting(pipe)
            expected = None if token is None else self._withdraw(token)
            kept = expected is not None and self._greet(pipe, expected)
            if token is not None and not kept:
                self._counters["data_socket_token_refused"] += 1
            return expected is not None
        finally:
            self._unclaimed -= 1
            if not kept:
                pipe.abort()

    async def run(self) -> None:
        """Closes what is idle, for ever; on its end everything."""
        try:
            while True:
                await trio.sleep(_SWEEP_S)
                self._sweep(trio.current_time())
        finally:
            for sidecar in self._sidecars.values():
                sidecar.close()

    # --- bounds ------------------------------------------------------------------------------------------------------

    def is_off(self, peer: PeerId) -> bool:
        until = self._off_until.get(peer)
        if until is not None and trio.current_time() >= until:
            del self._off_until[peer]
            return False
        return until is not None

    def turn_off(self, sidecar: Sidecar, why: str) -> None:
        """No data sockets with this peer for a while; `why` is counted. A connection that has ended says nothing of the
        path."""
        if sidecar.ended.is_set():
            return
        self._counters[why] += 1
        logger.info("no data sockets with %s for a while: %s", sidecar.peer, why)
        self._off_until[sidecar.peer] = trio.current_time() + limits.DATA_OFF_S
        self._off_until.move_to_end(sidecar.peer)
        if len(self._off_until) > limits.DATA_OFF_PEERS_MAX:
            self._off_until.popitem(last=False)
        for each in self._sidecars.values():
            if each.peer == sidecar.peer:
                each.end_use()

    def _has_room(self, sidecar: Sidecar, sockets_of_its_kind: int) -> bool:
        mine = sockets_of_its_kind + sidecar.expected
        return mine < limits.DATA_SOCKETS_PER_CONNECTION_MAX and self._count() < limits.DATA_SOCKETS_MAX

    def _count(self) -> int:
        return sum(len(each.outlets) + len(each.inlets) + each.expected for each in self._sidecars.values())

    def _sweep(self, now: float) -> None:
        for token in [token for token, expected in self._tokens.items() if expected.expires_at <= now]:
            self._withdraw(token)
        for sidecar in self._sidecars.values():
            _drop_idle(sidecar, now)

    # --- asking ------------------------------------------------------------------------------------------------------

    def _ask(self, sidecar: Sidecar) -> None:
        """Get another outlet, in the background."""
        _drop_idle(sidecar, trio.current_time())
        wanted = not sidecar.is_asking and sidecar.fits and not self.is_off(sidecar.peer)
        wanted = wanted and not (sidecar.connection.is_outbound and self._address(sidecar) is None)
        if wanted and self._has_room(sidecar, len(sidecar.outlets)):
            sidecar.is_asking = True
            self._nursery.start_soon(self._ask_guarded, sidecar)

    async def _ask_guarded(self, sidecar: Sidecar) -> None:
        try:
            if not await run_guarded("data_socket_request", partial(self._request, sidecar), self._counters):
                if sidecar.is_punched:
                    sidecar.has_no_way = True
                else:
                    self.turn_off(sidecar, "data_socket_refused")
        finally:
            sidecar.is_asking = False

    def _address(self, sidecar: Sidecar) -> str | None:
        """Where the peer's data sockets listen; None when nobody listens where its connection goes to, and where else is
        not known."""
        # SPEC data/1 §2
        address = sidecar.connection.address
        return self._listens_at(sidecar.peer, address) if sidecar.is_punched else address

    async def _request(self, sidecar: Sidecar) -> None:
        """Raises TransportError when there will be none."""
        with deadline(limits.DIAL_TIMEOUT_S, "data socket"):
            stream = await self._open_control(sidecar.connection)
            async with _one_exchange(stream):
                if sidecar.connection.is_outbound:
                    outlet = await self._request_invitation(sidecar, stream)
                else:
                    outlet = await self._request_dial(sidecar, stream)
        if sidecar.ended.is_set():
            outlet.close()
            return
        self._counters["data_socket_opened"] += 1
        sidecar.outlets.append(outlet)
        self._nursery.start_soon(self._listen, sidecar, outlet)

    async def _request_invitation(self, sidecar: Sidecar, stream: ControlStream) -> DataOutlet:
        # SPEC data/1 §3.2
        await stream.write(encode_request(None))
        await _read_yes(stream)
        invitation = decode_invitation(await stream.read_exactly(INVITATION_BYTES))
        return DataOutlet(await self._connect(sidecar, invitation), invitation, sidecar.traffic)

    async def _request_dial(self, sidecar: Sidecar, stream: ControlStream) -> DataOutlet:
        with self._expecting(sidecar, is_ours_to_send=True) as expected:
            await stream.write(encode_request(expected.invitation))
            await _read_yes(stream)
            await expected.arrived.wait()
            assert expected.outlet is not None
            return expected.outlet

    async def _listen(self, sidecar: Sidecar, outlet: DataOutlet) -> None:
        await run_guarded("data_socket", outlet.listen, self._counters)
        if outlet in sidecar.outlets:
            sidecar.outlets.remove(outlet)
        if outlet.broke:
            self.turn_off(sidecar, "data_socket_broke")
            # A peer that died takes its data sockets and its connection with it: then the path is not to blame.
            with trio.move_on_after(limits.DEATH_NOTICE_S):
                await sidecar.ended.wait()
                self._off_until.pop(sidecar.peer, None)

    # --- being asked -------------------------------------------------------------------------------------------------

    async def answer(self, stream: ControlStream) -> None:
        """Serves DATA_PROTOCOL. Raises TransportError, RemoteProtocolError."""
        sidecar = self._sidecars.get(stream.connection)
        with deadline(limits.DIAL_TIMEOUT_S, "data socket"):
            first = await stream.read_exactly(1)
            rest = request_bytes(first) - 1
            invitation = decode_request(first + (await stream.read_exactly(rest) if rest else b""))
            # SPEC data/1 §3.3
            if sidecar is None or not sidecar.fits or sidecar.connection.is_outbound == (invitation is None):
                await self._say_no(stream, Answer.NOT_HERE)
            elif self.is_off(sidecar.peer) or not self._has_room(sidecar, len(sidecar.inlets)):
                await self._say_no(stream, Answer.FULL)
            elif invitation is None:
                await self._invite(sidecar, stream)
            else:
                await self._dial_back(sidecar, stream, invitation)

    async def _say_no(self, stream: ControlStream, answer: Answer) -> None:
        self._counters["data_socket_declined"] += 1
        await stream.write(bytes((answer,)))

    async def _invite(self, sidecar: Sidecar, stream: ControlStream) -> None:
        expected = self._expect(sidecar, is_ours_to_send=False)
        await stream.write(bytes((Answer.YES,)), expected.invitation.encode())

    async def _dial_back(self, sidecar: Sidecar, stream: ControlStream, invitation: Invitation) -> None:
        sidecar.expected += 1
        try:
            pipe = await self._connect(sidecar, invitation)
        except TransportError as error:
            logger.debug("data socket to %s: %s", sidecar.peer, error)
            await self._say_no(stream, Answer.UNREACHABLE)
            return
        finally:
            sidecar.expected -= 1
        self._add_inlet(sidecar, DataInlet(pipe, invitation, sidecar.traffic))
        await stream.write(bytes((Answer.YES,)))

    # --- sockets -----------------------------------------------------------------------------------------------------

    async def _connect(self, sidecar: Sidecar, invitation: Invitation) -> TcpPipe:
        """Dial and greet. Raises TransportError."""
        # SPEC data/1 §4.1
        address = self._address(sidecar)
        if address is None:
            raise TransportError("where the peer listens is not known", outcome_known=True)
        pipe = await self._dial(address)
        greeted = False
        try:
            with deadline(limits.DATA_GREETING_TIMEOUT_S, "data socket"):
                await pipe.send_all(invitation.greeting())
                if not invitation.is_proof(await _receive_exactly(pipe, PROOF_BYTES)):
                    raise TransportError("somebody else answers there", outcome_known=True)
                greeted = True
        finally:
            if not greeted:
                pipe.abort()
        return pipe

    async def _read_greeting(self, pipe: TcpPipe) -> bytes | None:
        """The token."""
        # SPEC data/1 §4.1
        try:
            with deadline(limits.DATA_GREETING_TIMEOUT_S, "data socket"):
                return decode_greeting(await _receive_exactly(pipe, GREETING_BYTES))
        except TransportError:
            self._counters["data_socket_greeting_failed"] += 1
            return None

    def _greet(self, pipe: TcpPipe, expected: _Expected) -> bool:
        """Whether the socket is in time, and thereby one of ours."""
        sidecar, invitation = expected.sidecar, expected.invitation
        if trio.current_time() >= expected.expires_at or sidecar.ended.is_set():
            return False
        try:
            # What it opens is ready before the dialler can read this: nothing waits here.
            pipe.send_now(invitation.proof())
        except TransportError:
            return False
        if expected.is_ours_to_send:
            expected.outlet = DataOutlet(pipe, invitation, sidecar.traffic)
            expected.arrived.set()
        else:
            self._add_inlet(sidecar, DataInlet(pipe, invitation, sidecar.traffic))
        return True

    def _refuse(self, pipe: TcpPipe, why: str) -> None:
        self._counters[why] += 1
        pipe.abort()

    def _add_inlet(self, sidecar: Sidecar, inlet: DataInlet) -> None:
        if sidecar.ended.is_set() or inlet.socket_id in sidecar.inlets:
            inlet.stop()
        else:
            sidecar.inlets[inlet.socket_id] = inlet

    # --- tokens ------------------------------------------------------------------------------------------------------

    def _expect(self, sidecar: Sidecar, *, is_ours_to_send: bool) -> _Expected:
        expires_at = trio.current_time() + limits.DATA_TOKEN_LIFETIME_S
        expected = _Expected(sidecar, Invitation.new(), is_ours_to_send, expires_at)
        self._tokens[expected.invitation.token] = expected
        sidecar.expected += 1
        return expected

    @contextmanager
    def _expecting(self, sidecar: Sidecar, *, is_ours_to_send: bool) -> Iterator[_Expected]:
        """Only as long as the block lasts."""
        expected = self._expect(sidecar, is_ours_to_send=is_ours_to_send)
        returned = False
        try:
            yield expected
            returned = True
        finally:
            self._withdraw(expected.invitation.token)
            if not returned and expected.outlet is not None:
                expected.outlet.close()

    def _withdraw(self, token: bytes) -> _Expected | None:
        """A token is good once."""
        expected = self._tokens.pop(token, None)
        if expected is not None:
            expected.sidecar.expected -= 1
        return expected

    def _sidecar(self, link: Link) -> Sidecar:
        sidecar = self._sidecars.get(link.connection)
        if sidecar is None:
            sidecar = Sidecar(link.connection, link.ended, link.is_punched)
            if not link.ended.is_set():
                self._sidecars[link.connection] = sidecar
        return sidecar


def _drop_idle(sidecar: Sidecar, now: float) -> None:
    for outlet in list(sidecar.outlets):
        idle = now - outlet.used_at >= limits.DATA_IDLE_SENDER_S
        if outlet.is_over or (outlet.is_clear and (idle or not outlet.may_begin)):
            sidecar.outlets.remove(outlet)
            outlet.close()
    for socket_id, inlet in list(sidecar.inlets.items()):
        if inlet.is_over or (not inlet.is_busy and _is_useless(inlet, now)):
            del sidecar.inlets[socket_id]
            inlet.stop()


def _is_useless(inlet: DataInlet, now: float) -> bool:
    """Left by its sender; or idle; or full of what nobody will read. A slow reader's is none of these."""
    if inlet.is_left():
        return True
    if inlet.is_empty():
        return now - inlet.used_at >= limits.DATA_IDLE_RECEIVER_S
    return now - inlet.abandoned_at >= limits.DATA_IDLE_SENDER_S


@asynccontextmanager
async def _one_exchange(stream: ControlStream) -> AsyncIterator[None]:
    """Closes the stream, or resets it when the block raises."""
    done = False
    try:
        yield
        done = True
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(1.0):
            await (stream.close() if done else stream.reset())


async def _read_yes(stream: ControlStream) -> None:
    """Raises TransportError for a no."""
    # SPEC data/1 §3.3
    answer = await stream.read_exactly(1)
    if answer != bytes((Answer.YES,)):
        raise TransportError(f"the peer gives no data socket ({answer[0]})", outcome_known=True)


async def _receive_exactly(pipe: TcpPipe, size: int) -> bytes:
    """Not a byte more. Raises TransportError when the pipe ends before."""
    buffer = bytearray(size)
    got = 0
    while got < size:
        taken = await pipe.receive_into(memoryview(buffer)[got:])
        if not taken:
            raise TransportError("the socket was closed", outcome_known=True)
        got += taken
    return bytes(buffer)
