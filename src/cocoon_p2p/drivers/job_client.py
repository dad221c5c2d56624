"""job/1 as a client: one long-lived stream to each provider in use carries all jobs for it.

`JobClient.ask` asks one provider, `JobClient.prepare` takes its announced price unasked; the `Attempt` that either returns is
carried through (`run`) or cancelled. Which provider is asked, chosen or tried next is not decided here (`node_jobs`,
`policy.selection`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.drivers.hearsay import open_announced
from cocoon_p2p.drivers.job_attempt import Attempt, AttemptPorts
from cocoon_p2p.drivers.job_outcomes import JobOutcomes
from cocoon_p2p.drivers.job_session import JobSession
from cocoon_p2p.drivers.seal_key_memory import SealKeyMemory
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.drivers.stream_attempt import StreamAttempt
from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import JobId, PeerId, Tier
from cocoon_p2p.net.addresses import parse_address
from cocoon_p2p.net.port import Network, Stream
from cocoon_p2p.proto.announced_price import AnnouncedPrice, why_not_firm
from cocoon_p2p.proto.job_client import ClientJob, JobTerms
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.port import Settlement
from cocoon_p2p.store import Store
from cocoon_p2p.wire.job import JOB_PROTOCOL

__all__ = ["Attempt", "ClientPorts", "JobClient"]


@dataclass(frozen=True, slots=True)
class ClientPorts:
    """What a client of job/1 stands on."""

    identity: IdentityKey
    network: Network
    settlement: Settlement
    store: Store
    standing: StandingKeeper
    clock: Clock


class JobClient:
    """All job streams of this node as a client. `run` the nursery's life long."""

    def __init__(self, ports: ClientPorts, nursery: trio.Nursery) -> None:
        self._ports = ports
        self._nursery = nursery
        self._seal_keys = SealKeyMemory()
        self._attempt_ports = AttemptPorts(
            settlement=ports.settlement,
            store=ports.store,
            standing=ports.standing,
            clock=ports.clock,
            outcomes=JobOutcomes(ports.identity, ports.settlement, ports.store, ports.clock),
            seal_keys=self._seal_keys,
        )
        self._sessions: dict[PeerId, JobSession] = {}
        self._opening: dict[PeerId, trio.Lock] = {}

    async def ask(
        self, provider: PeerId, addresses: Sequence[str], job_id: JobId, terms: JobTerms, *, deadline: float
    ) -> Attempt:
        """Ask for a quote. Raises PeerRefused, TransportError, RemoteProtocolError."""
        session = await self._session(provider, addresses)
        job = ClientJob(self._ports.identity, provider, job_id, terms, deadline=deadline)
        attempt = self._attempt(session, job)
        await attempt.ask()
        return attempt

    def is_warm(self, provider: PeerId, tier: Tier) -> bool:
        """Whether a job could be submitted to it unasked: a job stream is open, on which it is not silent, and, unless the
        tier is open, a seal key of it is remembered."""
        session = self._sessions.get(provider)
        if session is None or session.ended or session.silent:
            return False
        return tier is Tier.OPEN or self._seal_keys.find(provider, unix_ms(self._ports.clock)) is not None

    def prepare(
        self, provider: PeerId, job_id: JobId, terms: JobTerms, announced: AnnouncedPrice, *, deadline: float
    ) -> Attempt:
        """Take the provider's announced price as its quote: nothing is sent before the attempt's `run`. Raises
        TransportError (NOT_WARM) where the provider has to be asked."""
        # SPEC job/1 §3.12
        now_ms = unix_ms(self._ports.clock)
        reason = why_not_firm(terms, announced, unix_ms=now_ms)
        if reason is None and not self.is_warm(provider, terms.tier):
            reason = "no job stream to it is open, or its seal key is not known"
        if reason is not None:
            raise TransportError(f"provider {provider} has to be asked: {reason}", outcome_known=True, code="NOT_WARM")
        seal_key = None if terms.tier is Tier.OPEN else self._seal_keys.find(provider, now_ms)
        job = ClientJob(self._ports.identity, provider, job_id, terms, deadline=deadline)
        job.offer(announced, seal_key)
        return self._attempt(self._sessions[provider], job)

    def _attempt(self, session: JobSession, job: ClientJob) -> Attempt:
        kind = StreamAttempt if job.terms.instalment else Attempt
        return kind(self._attempt_ports, session, job)

    async def aclose(self) -> None:
        """Say goodbye on every stream."""
        for session in list(self._sessions.values()):
            with trio.move_on_after(1.0):
                await session.aclose()

    async def _session(self, provider: PeerId, addresses: Sequence[str]) -> JobSession:
        lock = self._opening.setdefault(provider, trio.Lock())
        try:
            async with lock:
                session = self._sessions.get(provider)
                if session is None or session.ended:
                    stream = await self._open(provider, addresses)
                    session = JobSession(self._attempt_ports, stream, self._way_to(provider))
                    self._sessions[provider] = session
                    self._nursery.start_soon(self._serve, session)
                    session.ask_for_outcomes()
            return session
        finally:  # of those that cannot be reached nothing is kept: anybody can announce any number of them
            if provider not in self._sessions and not lock.locked() and self._opening.get(provider) is lock:
                del self._opening[provider]

    async def _open(self, provider: PeerId, addresses: Sequence[str]) -> Stream:
        return await open_announced(self._ports.network, provider, addresses, JOB_PROTOCOL)

    def _way_to(self, provider: PeerId) -> PeerId | None:
        """The relay that new streams to the provider go through; None where none is between."""
        link = next((each for each in self._ports.network.peers() if each.peer == provider), None)
        return parse_address(link.address).relay if link is not None and link.relayed else None

    async def _serve(self, session: JobSession) -> None:
        try:
            await session.serve()
        finally:
            if self._sessions.get(session.peer) is session:
                del self._sessions[session.peer]
                self._opening.pop(session.peer, None)
