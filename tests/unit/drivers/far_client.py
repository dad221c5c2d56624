"""A provider of job/1 with real store and ledger and an engine that works when it is told to, and a client whose end of the
stream the test plays, in virtual time. Tier open: the sealing does not matter here."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from cocoon_p2p.drivers.clock import unix_ms
from cocoon_p2p.drivers.job_provider import JobProvider, ProviderPorts
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.ids import JobId, ModelId, PeerId, Tier
from cocoon_p2p.net.memory import MemoryHub, MemoryNetwork
from cocoon_p2p.net.port import Stream
from cocoon_p2p.policy.pricing import FixedPricing
from cocoon_p2p.proto.provider_desk import ProviderDesk, ServedModel
from cocoon_p2p.sealing.seal_keys import SealKeyRing
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.local import LocalSettlement, open_local_settlement
from cocoon_p2p.store import Store, open_store
from cocoon_p2p.testing.simulation import PlainBuffer, PlainResult, VirtualClock
from cocoon_p2p.wire.job import (
    JOB_PROTOCOL,
    RECEIPT_DOMAIN,
    Cancel,
    Failure,
    FailureCode,
    Input,
    JobMessage,
    Output,
    OutputHead,
    QuoteBody,
    Receipt,
    ReceiptAck,
    Submit,
    decode_message,
    decode_receipt_body,
)
from cocoon_p2p.wire.seal import NO_COMMITMENT, NO_KEY_ID, SUITE_PLAIN, EnvelopeHeader

CLIENT, PROVIDER = IdentityKey.from_seed(b"c" * 32), IdentityKey.from_seed(b"p" * 32)
MODEL = ModelId("ab" * 32)
JOB, OTHER = JobId(b"j" * 16), JobId(b"o" * 16)
PAYLOAD = bytes(64)
PRICE = 1010


@dataclass
class ToldEngine:
    """Answers with `answer` once `proceed` is set; counts what was taken from it before."""

    answer: bytes = b"a" * 64
    proceed: trio.Event = field(default_factory=trio.Event)
    running: set[bytes] = field(default_factory=set)
    cancelled: int = 0
    begun: int = 0

    def input_buffer(self, payload_bytes: int) -> PlainBuffer:
        return PlainBuffer(payload_bytes)

    async def run(
        self, model_id: ModelId, payload: PlainBuffer, *, items_max: int, client: PeerId | None = None
    ) -> PlainResult:
        self.begun += 1
        try:
            await self.proceed.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        return PlainResult(memoryview(self.answer), 1, 0.0, 0.01)


@dataclass
class Far:
    """The client's end of one job stream."""

    stream: Stream
    money: LocalSettlement
    headers: dict[JobId, bytes] = field(default_factory=dict)

    async def send(self, *messages: JobMessage) -> None:
        await self.stream.send(*(message.encode() for message in messages))

    async def take(self, *kinds: type) -> list[Any]:
        """The next messages, which must be these."""
        messages = []
        with trio.fail_after(60):
            for kind in kinds:
                message = decode_message(await self.stream.receive())
                assert isinstance(message, kind), message
                messages.append(message)
        return messages

    async def submit(self, job_id: JobId = JOB, *, whole: bool = True) -> None:
        """With the input, which is one piece, or without."""
        terms = QuoteBody(
            PROVIDER.peer_id, CLIENT.peer_id, job_id, MODEL, Tier.OPEN, 1, len(PAYLOAD), 1000, 10, PRICE,
            unix_ms(VirtualClock()), 0, 0, b"", b"",
        )  # fmt: skip
        header = self.headers[job_id] = EnvelopeHeader(
            suite=SUITE_PLAIN,
            job_id=job_id,
            model_id=MODEL,
            provider=PROVIDER.peer_id,
            key_id=NO_KEY_ID,
            max_total=PRICE,
            expires_at_ms=unix_ms(VirtualClock()) + 60_000,
            payload_bytes=len(PAYLOAD),
            items=1,
            commitment=NO_COMMITMENT,
        ).encode()
        payment = await self.money.reserve(PROVIDER.peer_id, job_id, PRICE)
        messages: list[JobMessage] = [Submit(job_id, terms.encode(), 600_000, payment, header, b"")]
        await self.send(*messages, *([Input(job_id, PAYLOAD, True)] if whole else []))

    async def answered(self, job_id: JobId = JOB) -> Receipt:
        """The output and the receipt, which is checked."""
        (head,) = await self.take(OutputHead)
        digest = hashlib.sha256(head.response_header)
        message = (await self.take((Output, Receipt)))[0]  # type: ignore[arg-type]
        while isinstance(message, Output):
            digest.update(message.ciphertext)
            message = (await self.take((Output, Receipt)))[0]  # type: ignore[arg-type]
        assert isinstance(message, Receipt)
        body = decode_receipt_body(message.body)
        assert (body.job_id, body.output_hash) == (job_id, digest.digest())
        assert body.input_hash == hashlib.sha256(self.headers[job_id] + PAYLOAD).digest()
        return message

    async def done(self, job_id: JobId = JOB) -> Receipt:
        await self.submit(job_id)
        return await self.answered(job_id)

    async def sign(self, receipt: Receipt) -> None:
        await self.send(ReceiptAck(receipt.job_id, CLIENT.sign(RECEIPT_DOMAIN, receipt.body)))

    async def nothing_earned(self, job_id: JobId = JOB, code: FailureCode = FailureCode.CANCELLED) -> None:
        (failure,) = await self.take(Failure)
        assert (failure.job_id, failure.code) == (job_id, code)

    async def cancelled(self, job_id: JobId = JOB) -> None:
        await self.send(Cancel(job_id))
        await self.nothing_earned(job_id)


@dataclass
class Scene:
    store: Store
    money: LocalSettlement
    jobs: JobProvider
    desk: ProviderDesk
    engine: ToldEngine
    standing: StandingKeeper
    client_money: LocalSettlement
    network: MemoryNetwork
    client: MemoryNetwork

    async def stream(self) -> Far:
        await self.client.connect(PROVIDER.peer_id, self.network.addresses())
        return Far(await self.client.open_stream(PROVIDER.peer_id, JOB_PROTOCOL), self.client_money)

    async def earned(self) -> int:
        return (await self.money.balance()).earned

    async def reserved(self) -> int:
        return sum(status.reserved for status in await self.money.channels())

    def state(self, job_id: JobId = JOB) -> tuple[str, int, str]:
        job = self.store.jobs.get(job_id, "provider", peer=CLIENT.peer_id)
        assert job is not None
        assert job.finished_at_ms is not None
        return job.state, job.price, job.error

    def receipt_kept(self, job_id: JobId = JOB) -> bool:
        return self.store.receipts.by_job(job_id, role="provider") is not None


@asynccontextmanager
async def open_scene(folder: Path) -> AsyncIterator[Scene]:
    """Again in the same folder: the same provider after a restart."""
    hub, clock, engine = MemoryHub(), VirtualClock(), ToldEngine()
    desk = ProviderDesk(
        identity=PROVIDER,
        seal_keys=SealKeyRing(lambda key, start, end: b"", unix_ms(clock)),
        settlement_network=0,
        slots=64,
        tiers=frozenset({Tier.OPEN}),
        items_max=10,
        input_bytes_max=1000,
        bytes_in_flight_max=10**6,
        models={MODEL: ServedModel(MODEL, "m", FixedPricing(1000, 10), "cpu")},
    )
    with (
        open_store(folder / "state.db") as store,
        open_local_settlement(folder / "ledger.db", PROVIDER, IdentityKey.from_seed(b"k" * 32), threads=False) as money,
        open_local_settlement(folder / "client.db", CLIENT, IdentityKey.from_seed(b"x" * 32), threads=False) as theirs,
    ):
        async with hub.open(PROVIDER.peer_id) as network, hub.open(CLIENT.peer_id) as client:
            standing = StandingKeeper(network, store, clock)
            jobs = JobProvider(ProviderPorts(engine, money, store, desk, standing, clock))  # type: ignore[arg-type]
            network.set_handler(JOB_PROTOCOL, jobs.serve_stream)
            yield Scene(store, money, jobs, desk, engine, standing, theirs, network, client)
