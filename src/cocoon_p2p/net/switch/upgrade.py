"""From a pipe to a connection: the private network's key where there is one, then Noise, then yamux.

Only these two protocols are offered and accepted: with /plaintext/2.0.0, which other programs have in their set, whoever
knows a public key passes as its owner.

Round trips of the dialling end before its first stream: one where both ends choose the muxer within Noise, as go, js and
this program do. The proposal of Noise and its first message leave together, so do the listener's answers to both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import NODE_WINDOW_BYTES_MAX
from cocoon_p2p.net import multistream
from cocoon_p2p.net.noise.agreement import HandshakeLine, NoiseInitiator, SessionLine, respond
from cocoon_p2p.net.noise.handshake import HandshakeError
from cocoon_p2p.net.noise.identity import NoiseIdentity
from cocoon_p2p.net.transport.pipe import Pipe
from cocoon_p2p.net.transport.private import PrivatePipe, not_in_network
from cocoon_p2p.net.yamux.connection import MuxedConnection
from cocoon_p2p.net.yamux.window import WindowBudget

NOISE = "/noise"
YAMUX = "/yamux/1.0.0"


@dataclass(frozen=True, slots=True)
class Upgrader:
    """Makes authenticated, multiplexed connections of pipes, under one identity."""

    peer_id: PeerId
    identity: NoiseIdentity = field(repr=False)
    network_key: bytes | None = field(repr=False, default=None)
    windows: WindowBudget = field(repr=False, default_factory=lambda: WindowBudget(NODE_WINDOW_BYTES_MAX))
    """What the receive windows of all connections together may grow by."""

    @classmethod
    def from_seed(cls, peer_id: PeerId, seed: bytes, network_key: bytes | None = None) -> Upgrader:
        """`seed`: of the Ed25519 identity. `network_key`: 32 bytes that all machines of a private network share."""
        return cls(peer_id, NoiseIdentity.from_seed(seed, [YAMUX]), network_key)

    async def outbound(self, pipe: Pipe, expected: PeerId) -> MuxedConnection:
        """The pipe is aborted when this fails or is cancelled. Raises TransportError, also when another peer than
        `expected` answers (WRONG_PEER)."""
        with self._upgrading(pipe):
            line = HandshakeLine(self._protected(pipe))
            noise = NoiseInitiator(self.identity)
            line.write_behind(noise.first_message)
            with self._greeting():
                await multistream.propose(line, NOISE)
            session, muxer = await noise.run(line, expected)
            if muxer != YAMUX:
                await multistream.propose(SessionLine(session), YAMUX)
            return MuxedConnection(session, budget=self.windows)

    async def inbound(self, pipe: Pipe) -> MuxedConnection:
        """The pipe is aborted when this fails or is cancelled. Raises TransportError."""
        with self._upgrading(pipe):
            protected = self._protected(pipe)
            if isinstance(protected, PrivatePipe):
                await protected.send_nonce()
            line = HandshakeLine(protected)
            with self._greeting():
                await multistream.accept(line, [NOISE])
            session, muxer = await respond(line, self.identity)
            if session.peer == self.peer_id:
                raise TransportError("a connection to ourselves", outcome_known=True)
            if muxer != YAMUX:
                await multistream.accept(SessionLine(session), [YAMUX])
            return MuxedConnection(session, budget=self.windows)

    def _protected(self, pipe: Pipe) -> Pipe:
        return pipe if self.network_key is None else PrivatePipe(pipe, self.network_key)

    @contextmanager
    def _greeting(self) -> Iterator[None]:
        """Within a private network what cannot be understood comes from outside of it; without, perhaps from within one:
        its first bytes are noise."""
        try:
            yield
        except RemoteProtocolError as error:
            if self.network_key is None:
                raise TransportError(
                    f"handshake: {error.message}, or it is in a private network that this node is not in",
                    outcome_known=True,
                    code="HANDSHAKE",
                ) from error
            raise not_in_network() from error
        except TransportError as error:
            if self.network_key is None or error.code == "UNKNOWN_PROTOCOL":
                raise
            raise not_in_network() from error

    @contextmanager
    def _upgrading(self, pipe: Pipe) -> Iterator[None]:
        """Whatever goes wrong is a TransportError, also when the other end speaks something else, HTTP for instance:
        nobody has proven an identity yet, so there is no peer whose fault it could be."""
        done = False
        try:
            yield
            done = True
        except RemoteProtocolError as error:
            raise TransportError(f"handshake: {error.message}", outcome_known=True, code="HANDSHAKE") from error
        except HandshakeError as error:
            raise TransportError(f"handshake: {error}", outcome_known=True, code="HANDSHAKE") from error
        finally:
            if not done:
                pipe.abort()
