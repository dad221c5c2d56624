"""What hostile peers can send: each costs the sender its standing, and the node goes on serving everybody else.

`autojump_clock` must be an argument of each test itself: pytest-trio does not look for clocks behind other fixtures.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import trio
from trio.testing import MockClock

from cocoon_p2p import limits
from cocoon_p2p.errors import CocoonError, EndOfStream, TransportError
from cocoon_p2p.execution.arrays import to_payload
from cocoon_p2p.ids import JobId, ModelId, Tier
from cocoon_p2p.net.port import Network, Stream
from cocoon_p2p.node import RunRequest
from cocoon_p2p.proto.job_client import ClientJob, JobTerms
from cocoon_p2p.proto.job_effects import Send, SendInput
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.local import LocalSettlement, open_local_settlement
from cocoon_p2p.tensors import encode_payload
from cocoon_p2p.testing.simulation import RunningNode, Simulation, VirtualClock
from cocoon_p2p.wire.capacity import (
    CAPACITY_DOMAIN,
    CAPACITY_PROTOCOL,
    CAPACITY_TOPIC,
    Announcement,
    DeviceClass,
    Offer,
    SignedAnnouncement,
    TierPrice,
    Unit,
    capacity_key,
)
from cocoon_p2p.wire.job import (
    JOB_PROTOCOL,
    Accept,
    Ask,
    Failure,
    Input,
    Quote,
    Receipt,
    Refusal,
    decode_message,
    decode_refusal_body,
)
from cocoon_p2p.wire.voucher import decode_payment, decode_voucher

X = to_payload({"x": np.ones((1, 4), np.float32)})
PIECE = b"".join(bytes(piece) for piece in encode_payload(X))
ATTACKER = IdentityKey.from_seed(b"a" * 32)


@dataclasses.dataclass
class Scene:
    """A provider, an honest client, and an attacker with bare hands on the network."""

    sim: Simulation
    provider: RunningNode
    client: RunningNode
    attacker: Network
    settlement: LocalSettlement

    @property
    def model_id(self) -> ModelId:
        return next(iter(self.provider.engine.manifests))

    def penalty(self) -> float:
        """What the attacker has lost at the provider."""
        return self.provider.node._parts.standing.of(ATTACKER.peer_id).penalty

    async def honest_job_works(self) -> None:
        await self.client.node.run_payload(RunRequest("echo"), X)

    async def stream(self, protocol: str = JOB_PROTOCOL) -> Stream:
        return await self.attacker.open_stream(self.provider.node.peer_id, protocol)


@asynccontextmanager
async def open_scene(tmp_path: Path, echo_model: Path) -> AsyncIterator[Scene]:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model)
        client = await sim.start("client")
        with open_local_settlement(tmp_path / "attacker.sqlite3", ATTACKER, IdentityKey.from_seed(b"c" * 32)) as money:
            async with sim.hub.open(ATTACKER.peer_id) as attacker:
                await attacker.connect(provider.node.peer_id, provider.node._parts.network.addresses())
                yield Scene(sim, provider, client, attacker, money)


@pytest.fixture
async def scene(tmp_path: Path, echo_model: Path, autojump_clock: MockClock) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path, echo_model) as opened:
        yield opened


async def until_cut(stream: Stream) -> None:
    """The provider reset the stream."""
    with trio.fail_after(30):
        while True:
            try:
                await stream.receive()
            except EndOfStream:
                raise AssertionError("the provider closed the stream politely") from None
            except TransportError:
                return


def make_job(scene: Scene, *, job_id: JobId | None = None, tier: Tier = Tier.SEALED) -> ClientJob:
    terms = JobTerms(scene.model_id, tier, 1, len(PIECE), None, 60, 0)
    job_id = job_id or JobId(hashlib.sha256(str(trio.current_time()).encode()).digest()[:16])
    return ClientJob(ATTACKER, scene.provider.node.peer_id, job_id, terms, deadline=trio.current_time() + 60)


async def quoted(scene: Scene, stream: Stream, job: ClientJob) -> None:
    (send,) = job.start(trio.current_time())
    assert isinstance(send, Send)
    await stream.send(send.message.encode())
    message = decode_message(await stream.receive())
    assert isinstance(message, Quote), message
    job.handle_message(message, unix_ms=int(VirtualClock().unix() * 1000))


async def paid(scene: Scene, job: ClientJob) -> bytes:
    assert job.quote is not None
    return await scene.settlement.reserve(scene.provider.node.peer_id, job.job_id, job.quote.max_total)


def accepted(job: ClientJob, payment: bytes) -> tuple[Accept, bytes]:
    """The honest ACCEPT and the sealed input."""
    send, seal = job.accept(payment, now=trio.current_time(), unix_ms=int(VirtualClock().unix() * 1000))
    assert isinstance(send, Send)
    assert isinstance(send.message, Accept)
    assert isinstance(seal, SendInput)
    return send.message, bytes(seal.sealer.seal(PIECE, True))


async def test_the_attacker_could_be_honest(autojump_clock: MockClock, scene: Scene) -> None:
    """The tools of this file make a good job when nothing is spoiled; otherwise the tests below prove nothing."""
    stream, job = await scene.stream(), make_job(scene)
    await quoted(scene, stream, job)
    accept, sealed = accepted(job, await paid(scene, job))
    await stream.send(accept.encode(), Input(job.job_id, sealed, True).encode())
    kinds = [type(decode_message(await stream.receive())).__name__ for _ in range(3)]
    assert kinds == ["OutputHead", "Output", "Receipt"]
    assert scene.penalty() == 0


@pytest.mark.parametrize(
    "frame",
    [
        b"\xc1",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x92\x63\xc4\x10" + b"j" * 16,
        b"\x90",
        b"\x91\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\x81\x01\x02",
        b"\x9a\x01" + b"\xff" * 400,
        bytes(limits.FRAME_BYTES_MAX),
    ],
    ids=["reserved", "http", "unknown-tag", "empty", "short", "array-bomb", "map", "floats", "huge"],
)
@pytest.mark.parametrize("protocol", [JOB_PROTOCOL, CAPACITY_PROTOCOL])
async def test_garbage_costs_standing(autojump_clock: MockClock, scene: Scene, protocol: str, frame: bytes) -> None:
    stream = await scene.stream(protocol)
    await stream.send(frame)
    await until_cut(stream)
    assert scene.penalty() >= 25
    await scene.honest_job_works()


async def test_who_goes_on_is_shut_out(autojump_clock: MockClock, scene: Scene) -> None:
    for _ in range(5):
        stream = await scene.stream()
        await stream.send(b"\xc1")
        await until_cut(stream)
    with pytest.raises(TransportError):
        await scene.stream()
    addresses = scene.provider.node._parts.network.addresses()
    with pytest.raises(TransportError):
        await scene.attacker.connect(scene.provider.node.peer_id, addresses)
    await scene.honest_job_works()
    await trio.sleep(limits.STANDING_BAN_S + 1)
    await scene.attacker.connect(scene.provider.node.peer_id, addresses)


async def test_a_ban_outlives_a_restart(autojump_clock: MockClock, scene: Scene, echo_model: Path) -> None:
    for _ in range(5):
        stream = await scene.stream()
        await stream.send(b"\xc1")
        await until_cut(stream)
    await scene.provider.leave()
    provider = await scene.sim.start("provider", model=echo_model)
    with pytest.raises(TransportError):
        await scene.attacker.connect(provider.node.peer_id, provider.node._parts.network.addresses())
    await trio.sleep(limits.STANDING_BAN_S + 1)
    await scene.attacker.connect(provider.node.peer_id, provider.node._parts.network.addresses())


async def test_a_provider_that_answers_garbage_loses_standing_at_the_client(
    autojump_clock: MockClock, scene: Scene
) -> None:
    async def garbage(stream: Stream) -> None:
        await stream.receive()
        await stream.send(b"\xc1")

    await scene.honest_job_works()
    scene.attacker.set_handler(JOB_PROTOCOL, garbage)
    raw = announcement(scene, ATTACKER, addresses=scene.attacker.addresses())
    await scene.attacker.publish(CAPACITY_TOPIC, raw)
    await trio.sleep(1)
    with pytest.raises(CocoonError):
        await scene.client.node.run_payload(RunRequest("echo", provider=ATTACKER.peer_id), X)
    assert scene.client.node._parts.standing.of(ATTACKER.peer_id).penalty > 0
    await scene.honest_job_works()


async def test_an_altered_chunk_is_refused_and_costs_nothing_but_standing(
    autojump_clock: MockClock, scene: Scene
) -> None:
    stream, job = await scene.stream(), make_job(scene)
    await quoted(scene, stream, job)
    accept, sealed = accepted(job, await paid(scene, job))
    spoiled = sealed[:5] + bytes([sealed[5] ^ 1]) + sealed[6:]
    await stream.send(accept.encode(), Input(job.job_id, spoiled, True).encode())
    answer = decode_message(await stream.receive())
    assert isinstance(answer, Failure)
    assert answer.code.name == "ENVELOPE"
    assert scene.penalty() == 25
    assert scene.provider.engine.jobs_done == 0
    await scene.honest_job_works()


async def test_a_truncated_input_is_no_input(autojump_clock: MockClock, scene: Scene) -> None:
    stream, job = await scene.stream(), make_job(scene)
    await quoted(scene, stream, job)
    accept, sealed = accepted(job, await paid(scene, job))
    await stream.send(accept.encode(), Input(job.job_id, sealed[:-16], True).encode())
    answer = decode_message(await stream.receive())
    assert isinstance(answer, Failure)
    assert scene.provider.engine.jobs_done == 0


async def test_an_input_shorter_than_announced_is_no_input(autojump_clock: MockClock, scene: Scene) -> None:
    """Sealed in good order, final flag and all, but not the bytes that were quoted."""
    stream, job = await scene.stream(), make_job(scene)
    await quoted(scene, stream, job)
    send, seal = job.accept(await paid(scene, job), now=trio.current_time(), unix_ms=int(VirtualClock().unix() * 1000))
    assert isinstance(send, Send)
    assert isinstance(seal, SendInput)
    short = bytes(seal.sealer.seal(PIECE[:64], True))
    await stream.send(send.message.encode(), Input(job.job_id, short, True).encode())
    answer = decode_message(await stream.receive())
    assert isinstance(answer, Failure)
    assert answer.code.name == "ENVELOPE"
    assert scene.provider.engine.jobs_done == 0


async def test_a_replayed_job_is_not_done_twice(autojump_clock: MockClock, scene: Scene) -> None:
    stream, job = await scene.stream(), make_job(scene)
    await quoted(scene, stream, job)
    accept, sealed = accepted(job, await paid(scene, job))
    frames = (accept.encode(), Input(job.job_id, sealed, True).encode())
    await stream.send(*frames)
    while not isinstance(decode_message(await stream.receive()), Receipt):
        pass
    await stream.send(*frames)
    answer = decode_message(await stream.receive())
    assert isinstance(answer, Refusal)
    assert decode_refusal_body(answer.body).reason.name == "QUOTE_EXPIRED"
    again = make_job(scene, job_id=job.job_id)
    (send,) = again.start(trio.current_time())
    assert isinstance(send, Send)
    await stream.send(send.message.encode())
    await until_cut(stream)
    assert scene.penalty() > 0
    assert scene.provider.engine.jobs_done == 1


async def test_an_envelope_for_another_quote_is_refused(autojump_clock: MockClock, scene: Scene) -> None:
    """Quoted a cheap job, sealed for a dear one."""
    stream, job = await scene.stream(), make_job(scene)
    await quoted(scene, stream, job)
    assert job.quote is not None
    payment = await paid(scene, job)
    job.quote = dataclasses.replace(job.quote, max_total=1)
    accept, sealed = accepted(job, payment)
    await stream.send(accept.encode(), Input(job.job_id, sealed, True).encode())
    answer = decode_message(await stream.receive())
    assert isinstance(answer, Failure)
    assert scene.penalty() > 0
    assert scene.provider.engine.jobs_done == 0


async def test_an_expired_quote_is_refused_without_blame(autojump_clock: MockClock, scene: Scene) -> None:
    stream, job = await scene.stream(), make_job(scene)
    await quoted(scene, stream, job)
    accept, sealed = accepted(job, await paid(scene, job))
    await trio.sleep(limits.QUOTE_LIFETIME_S + 1)
    await stream.send(accept.encode(), Input(job.job_id, sealed, True).encode())
    answer = decode_message(await stream.receive())
    assert isinstance(answer, Refusal)
    assert decode_refusal_body(answer.body).reason.name == "QUOTE_EXPIRED"
    assert scene.penalty() == 0


def unsigned(payment: bytes) -> bytes:
    body = decode_payment(payment)
    voucher = dataclasses.replace(decode_voucher(body.voucher), signature=bytes(64))
    return dataclasses.replace(body, voucher=voucher.encode()).encode()


def raised(payment: bytes) -> bytes:
    body = decode_payment(payment)
    voucher = decode_voucher(body.voucher)
    voucher = dataclasses.replace(voucher, cumulative=voucher.cumulative + 1)
    return dataclasses.replace(body, voucher=voucher.encode()).encode()


@pytest.mark.parametrize("spoil", [unsigned, raised, lambda _: b"\xc1", lambda _: b"x" * 500])
async def test_a_bad_voucher_costs_standing_and_no_work_is_done(
    autojump_clock: MockClock, scene: Scene, spoil: Callable[[bytes], bytes]
) -> None:
    stream, job = await scene.stream(), make_job(scene)
    await quoted(scene, stream, job)
    accept, sealed = accepted(job, spoil(await paid(scene, job)))
    await stream.send(accept.encode(), Input(job.job_id, sealed, True).encode())
    answer = decode_message(await stream.receive())
    assert isinstance(answer, Refusal)
    assert decode_refusal_body(answer.body).reason.name == "PAYMENT"
    assert scene.penalty() > 0
    assert scene.provider.engine.jobs_done == 0
    await scene.honest_job_works()


async def test_yesterdays_voucher_buys_nothing(autojump_clock: MockClock, scene: Scene) -> None:
    stream = await scene.stream()
    payments = []
    for _ in range(2):
        job = make_job(scene)
        await quoted(scene, stream, job)
        payments.append(await paid(scene, job))
        accept, sealed = accepted(job, payments[-1])
        await stream.send(accept.encode(), Input(job.job_id, sealed, True).encode())
        while not isinstance(decode_message(await stream.receive()), Receipt):
            pass
        await scene.settlement.paid(job.job_id, 1010)
    again = make_job(scene)
    await quoted(scene, stream, again)
    accept, sealed = accepted(again, payments[1])
    await stream.send(accept.encode(), Input(again.job_id, sealed, True).encode())
    answer = decode_message(await stream.receive())
    assert isinstance(answer, Refusal), "the newest voucher once more: no new credit"
    refusal = decode_refusal_body(answer.body)
    assert (refusal.reason.name, refusal.needed) == ("PAYMENT", 3 * 1010)
    older = make_job(scene)
    await quoted(scene, stream, older)
    accept, _ = accepted(older, payments[0])
    await stream.send(accept.encode())
    answer = decode_message(await stream.receive())
    assert isinstance(answer, Refusal)
    assert scene.penalty() == pytest.approx(15, abs=0.1)
    assert scene.provider.engine.jobs_done == 2


async def test_a_client_that_stalls_frees_its_place(autojump_clock: MockClock, scene: Scene) -> None:
    stream, job = await scene.stream(), make_job(scene)
    await quoted(scene, stream, job)
    accept, _ = accepted(job, await paid(scene, job))
    await stream.send(accept.encode())
    await trio.sleep(limits.JOB_INPUT_IDLE_TIMEOUT_S - 1)
    (offer,) = scene.provider.node._parts.serving.offers()  # type: ignore[union-attr]
    assert offer.slots_free == offer.slots_total - 1
    await trio.sleep(2)
    (offer,) = scene.provider.node._parts.serving.offers()  # type: ignore[union-attr]
    assert offer.slots_free == offer.slots_total
    assert all(buffer.released for buffer in scene.provider.engine.buffers)


async def test_asking_without_end_is_bounded(autojump_clock: MockClock, scene: Scene) -> None:
    stream = await scene.stream()
    refused = 0
    for number in range(limits.JOBS_PER_PEER_MAX + 20):
        ask = Ask(JobId(number.to_bytes(16)), scene.model_id, Tier.SEALED, 1, 64, 0, 1000, 0)
        await stream.send(ask.encode())
        refused += isinstance(decode_message(await stream.receive()), Refusal)
    assert refused == 20
    await scene.honest_job_works()


# --- announcements ---------------------------------------------------------------------------------------------------


def announcement(scene: Scene, signer: IdentityKey, **changes: object) -> bytes:
    now_ms = int(VirtualClock().unix() * 1000)
    price = TierPrice(Tier.SEALED, 1, 0)
    offer = Offer(scene.model_id, "echo", Unit.ITEM, (price,), 10, 10_000, 4, 4, 0, "cpu", DeviceClass.CPU, 0, 0)
    body = Announcement(ATTACKER.peer_id, now_ms, now_ms, now_ms + 60_000, (), "", (0,), "", (offer,))
    raw = dataclasses.replace(body, **changes).encode()  # type: ignore[arg-type]
    return SignedAnnouncement(raw, signer.sign(CAPACITY_DOMAIN, raw)).encode()


async def test_an_honest_stranger_is_heard(autojump_clock: MockClock, scene: Scene) -> None:
    await scene.attacker.publish(CAPACITY_TOPIC, announcement(scene, ATTACKER))
    await trio.sleep(1)
    assert ATTACKER.peer_id in {o["peer_id"] for o in await scene.provider.node.offers("echo")}


@pytest.mark.parametrize("kind", ["signature", "other peer", "garbage", "lives too long", "from the future"])
async def test_forged_announcements_are_not_heard(autojump_clock: MockClock, scene: Scene, kind: str) -> None:
    now_ms = int(VirtualClock().unix() * 1000)
    raw = {
        "signature": announcement(scene, IdentityKey.from_seed(b"b" * 32)),
        "other peer": announcement(scene, ATTACKER, peer_id=scene.client.node.peer_id),
        "garbage": b"\xc1garbage",
        "lives too long": announcement(scene, ATTACKER, expires_at_ms=now_ms + 3_600_000),
        "from the future": announcement(
            scene, ATTACKER, issued_at_ms=now_ms + 3_600_000, expires_at_ms=now_ms + 3_660_000
        ),
    }[kind]
    await scene.attacker.publish(CAPACITY_TOPIC, raw)
    await trio.sleep(1)
    for node in (scene.provider, scene.client):
        book = {o.peer for o in node.node._parts.market.offers("echo")}
        assert book <= {scene.provider.node.peer_id}
    assert (scene.penalty() > 0) == (kind != "from the future")
    await scene.honest_job_works()


async def test_only_a_peer_itself_gossips_its_announcement(autojump_clock: MockClock, scene: Scene) -> None:
    market = scene.client.node._parts.market
    honest = scene.provider.node._parts.market._announcing.current()
    assert honest is not None
    assert market._gossip.validate(scene.provider.node.peer_id, honest.encode())
    assert not market._gossip.validate(ATTACKER.peer_id, honest.encode())


async def test_nobody_can_put_a_record_under_anothers_key(autojump_clock: MockClock, scene: Scene) -> None:
    key = capacity_key(scene.provider.node.peer_id)
    honest = await scene.client.node._parts.network.dht_get(key)
    forged = announcement(scene, ATTACKER, sequence=2**60)
    with pytest.raises(CocoonError):
        await scene.attacker.dht_put(key, forged)
    assert await scene.client.node._parts.network.dht_get(key) == honest


async def test_an_older_announcement_does_not_come_back(autojump_clock: MockClock, scene: Scene) -> None:
    now_ms = int(VirtualClock().unix() * 1000)
    await scene.attacker.publish(CAPACITY_TOPIC, announcement(scene, ATTACKER, sequence=now_ms + 1, offers=()))
    await trio.sleep(1)
    await scene.attacker.publish(CAPACITY_TOPIC, announcement(scene, ATTACKER, sequence=now_ms))
    await trio.sleep(1)
    assert ATTACKER.peer_id not in {o.peer for o in scene.provider.node._parts.market.offers("echo")}
