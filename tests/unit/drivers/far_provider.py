"""A client of job/1 with real store and ledger, and a provider whose end of the stream the test plays, in virtual time."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from cocoon_p2p.drivers.clock import unix_ms
from cocoon_p2p.drivers.job_client import Attempt, ClientPorts, JobClient
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.errors import CocoonError, RefusalReason
from cocoon_p2p.ids import JobId, ModelId, Tier
from cocoon_p2p.net.memory import MemoryHub, MemoryNetwork
from cocoon_p2p.net.port import Stream
from cocoon_p2p.proto.announced_price import AnnouncedPrice
from cocoon_p2p.proto.job_client import JobTerms
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.local import LocalSettlement, open_local_settlement
from cocoon_p2p.store import JobRecord, Store, open_store
from cocoon_p2p.testing.simulation import VirtualClock
from cocoon_p2p.wire.job import (
    JOB_PROTOCOL,
    QUOTE_DOMAIN,
    RECEIPT_DOMAIN,
    REFUSAL_DOMAIN,
    Accept,
    Ask,
    Cancel,
    Failure,
    FailureCode,
    Input,
    JobMessage,
    Output,
    OutputHead,
    Quote,
    QuoteBody,
    Receipt,
    ReceiptBody,
    Refusal,
    RefusalBody,
    Submit,
    decode_message,
)
from cocoon_p2p.wire.seal import ResponseHeader

CLIENT, PROVIDER = IdentityKey.from_seed(b"c" * 32), IdentityKey.from_seed(b"p" * 32)
MODEL = ModelId("ab" * 32)
JOB, OTHER = JobId(b"j" * 16), JobId(b"o" * 16)
PAYLOAD, ANSWER = bytes(64), b"a" * 64
PRICE = 1010


@dataclass
class Far:
    """The provider's end of one job stream."""

    stream: Stream
    quotes: dict[JobId, bytes] = field(default_factory=dict)
    """Hash of the terms."""
    inputs: dict[JobId, bytes] = field(default_factory=dict)
    asked_about: list[JobId] = field(default_factory=list)

    async def send(self, *messages: JobMessage) -> None:
        await self.stream.send(*(message.encode() for message in messages))

    async def take(self, *kinds: type) -> list[JobMessage]:
        """The next messages, which must be these."""
        messages = []
        with trio.fail_after(60):
            for kind in kinds:
                message = decode_message(await self.stream.receive())
                assert isinstance(message, kind), message
                messages.append(message)
        return messages

    async def quote(self, *, tier: Tier = Tier.OPEN, sealed: bytes = b"") -> JobId:
        """Answer an ASK; jobs of earlier streams that are asked about before it are left in `asked_about`."""
        (ask,) = await self.take((Ask, Cancel))  # type: ignore[arg-type]
        while isinstance(ask, Cancel):
            self.asked_about.append(ask.job_id)
            (ask,) = await self.take((Ask, Cancel))  # type: ignore[arg-type]
        assert isinstance(ask, Ask)
        body = QuoteBody(
            PROVIDER.peer_id, CLIENT.peer_id, ask.job_id, MODEL, tier, 1, ask.input_bytes, 1000, 10, PRICE,
            unix_ms(VirtualClock()) + 10_000, 0, 0, b"", sealed,
        ).encode()  # fmt: skip
        self.quotes[ask.job_id] = hashlib.sha256(body).digest()
        await self.send(Quote(ask.job_id, body, PROVIDER.sign(QUOTE_DOMAIN, body)))
        return ask.job_id

    async def accepted(self) -> JobId:
        """The job begins: ACCEPT or SUBMIT, and its input."""
        begin, given = await self.take((Accept, Submit), Input)  # type: ignore[arg-type]
        assert isinstance(begin, Accept | Submit)
        assert isinstance(given, Input)
        if isinstance(begin, Submit):
            self.quotes[begin.job_id] = hashlib.sha256(begin.terms).digest()
        self.inputs[begin.job_id] = hashlib.sha256(begin.envelope_header + bytes(given.ciphertext)).digest()
        return begin.job_id

    def answer(self, job_id: JobId) -> tuple[OutputHead, Output, Receipt]:
        header = ResponseHeader(job_id, bytes(32)).encode()
        body = ReceiptBody(
            PROVIDER.peer_id, CLIENT.peer_id, job_id, MODEL, Tier.OPEN, self.quotes[job_id], PRICE, 1,
            self.inputs[job_id], hashlib.sha256(header + ANSWER).digest(), 0, 0, 1,
        ).encode()  # fmt: skip
        receipt = Receipt(job_id, body, PROVIDER.sign(RECEIPT_DOMAIN, body), b"")
        return OutputHead(job_id, header, len(ANSWER), 0, 0), Output(job_id, ANSWER, True), receipt

    async def refuse(self, job_id: JobId, reason: RefusalReason, needed: int) -> None:
        body = RefusalBody(PROVIDER.peer_id, CLIENT.peer_id, job_id, MODEL, reason, "no", needed, 1).encode()
        await self.send(Refusal(job_id, body, PROVIDER.sign(REFUSAL_DOMAIN, body)))

    async def nothing_earned(self) -> JobId:
        """Answer a CANCEL."""
        (message,) = await self.take(Cancel)
        await self.send(Failure(message.job_id, FailureCode.CANCELLED, "cancelled by the client"))
        return message.job_id


@dataclass
class Scene:
    hub: MemoryHub
    store: Store
    money: LocalSettlement
    jobs: JobClient
    network: MemoryNetwork
    provider: MemoryNetwork
    streams: trio.MemoryReceiveChannel[Stream]
    nursery: trio.Nursery
    ended: dict[JobId, CocoonError | None] = field(default_factory=dict)

    async def ask(self, job_id: JobId = JOB, **changes: object) -> Attempt:
        terms = make_terms(**changes)
        await self.network.connect(PROVIDER.peer_id, self.provider.addresses())
        return await self.jobs.ask(
            PROVIDER.peer_id, self.provider.addresses(), job_id, terms, deadline=trio.current_time() + 60
        )

    async def begin(self, attempt: Attempt, pieces: tuple[bytes, ...] = (PAYLOAD,)) -> None:
        """Pay, and carry it through in the background; its end will stand in `ended`."""
        job = attempt.job
        assert job.quote is not None
        payment = await self.money.reserve(PROVIDER.peer_id, job.job_id, job.quote.max_total)
        self.store.jobs.insert(
            JobRecord(job.job_id, "client", MODEL, "m", PROVIDER.peer_id, Tier.OPEN, "running", PRICE, 1, 1)
        )

        async def run() -> None:
            error: CocoonError | None = None
            try:
                await attempt.run(payment, pieces)
            except CocoonError as caught:
                error = caught
            except trio.Cancelled:
                self.written_down(attempt, None)
                raise
            self.written_down(attempt, error)

        self.nursery.start_soon(run)

    def written_down(self, attempt: Attempt, error: CocoonError | None) -> None:
        """As the Buyer does."""
        job_id = attempt.job.job_id
        self.ended[job_id] = error
        if attempt.job.receipt is None:
            state = "done" if attempt.received_output() is not None else "unknown" if attempt.at_risk else "failed"
            self.store.jobs.finish(job_id, "client", state, finished_at_ms=2, price=attempt.at_risk)  # type: ignore[arg-type]

    async def stream(self) -> Far:
        with trio.fail_after(60):
            return Far(await self.streams.receive())

    async def quoted(
        self, job_id: JobId = JOB, far: Far | None = None, *, first: Sequence[JobMessage] = ()
    ) -> tuple[Far, Attempt]:
        """An attempt with its quote, on a new stream or on this one; `first` is what the provider sends before it."""
        attempts: list[Attempt] = []

        async def ask() -> None:
            attempts.append(await self.ask(job_id))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            far = far or await self.stream()
            await far.send(*first)
            await far.quote()
        return far, attempts[0]

    async def working(self, job_id: JobId = JOB, far: Far | None = None) -> Far:
        """The provider has the whole input."""
        far, attempt = await self.quoted(job_id, far)
        await self.begin(attempt)
        assert await far.accepted() == job_id
        return far

    def state(self, job_id: JobId = JOB) -> tuple[str, int]:
        job = self.store.jobs.get(job_id, "client")
        assert job is not None
        return job.state, job.price

    async def spent(self) -> int:
        return (await self.money.balance()).spent

    async def until_over(self, job_id: JobId = JOB) -> CocoonError | None:
        with trio.fail_after(100):
            while job_id not in self.ended:  # noqa: ASYNC110
                await trio.sleep(0.1)
        return self.ended[job_id]


def make_terms(**changes: object) -> JobTerms:
    values: dict[str, object] = {
        "model_id": MODEL, "tier": Tier.OPEN, "items": 1, "payload_bytes": len(PAYLOAD), "max_total": None,
        "timeout_s": 60.0, "settlement_network": 0,
    }  # fmt: skip
    return JobTerms(**(values | changes))  # type: ignore[arg-type]


def announced(*, lasts_ms: int = 60_000) -> AnnouncedPrice:
    return AnnouncedPrice(1000, 10, unix_ms(VirtualClock()) + lasts_ms)


@asynccontextmanager
async def open_scene(folder: Path) -> AsyncIterator[Scene]:
    hub, clock = MemoryHub(), VirtualClock()
    streams_in, streams_out = trio.open_memory_channel[Stream](10)

    async def on_stream(stream: Stream) -> None:
        await streams_in.send(stream)
        await trio.sleep_forever()

    with (
        open_store(folder / "state.db") as store,
        open_local_settlement(folder / "ledger.db", CLIENT, IdentityKey.generate(), threads=False) as money,
    ):
        async with hub.open(PROVIDER.peer_id) as provider, hub.open(CLIENT.peer_id) as network:
            provider.set_handler(JOB_PROTOCOL, on_stream)
            standing = StandingKeeper(network, store, clock)
            async with trio.open_nursery() as nursery:
                jobs = JobClient(ClientPorts(CLIENT, network, money, store, standing, clock), nursery)
                yield Scene(hub, store, money, jobs, network, provider, streams_out, nursery)
                nursery.cancel_scope.cancel()
