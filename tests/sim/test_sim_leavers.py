"""Clients that leave a provider after it has worked for them: over and over, and it refuses them; now and then, as hedging and broken lines
do, and it never does. Virtual time."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from test_sim_generate import asked, start_all, tokens_come, writer, writing
from test_sim_jobs import autojump_clock

from cocoon_p2p import limits
from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.ids import JobId, Tier
from cocoon_p2p.net.port import Network, Stream
from cocoon_p2p.proto.job_client import ClientJob, JobTerms
from cocoon_p2p.proto.job_effects import Send, SendInput
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.local import LocalSettlement, open_local_settlement
from cocoon_p2p.tensors import encode_payload
from cocoon_p2p.testing.simulated_writing import whole_answer
from cocoon_p2p.testing.simulation import RunningNode, Simulation, VirtualClock
from cocoon_p2p.wire.job import (
    JOB_PROTOCOL,
    Cancel,
    Failure,
    Input,
    JobMessage,
    Quote,
    Refusal,
    RefusalBody,
    StreamHead,
    decode_message,
    decode_refusal_body,
)

__all__ = ["autojump_clock", "writer"]

LEAVER = IdentityKey.from_seed(b"a" * 32)


class Leaver:
    """A client with bare hands, that has prompts worked on."""

    def __init__(self, network: Network, money: LocalSettlement, provider: RunningNode) -> None:
        self._network = network
        self._money = money
        self._provider = provider
        self._ids = (JobId(bytes(8) + number.to_bytes(8)) for number in itertools.count())

    async def worked_on(self, prompt: str = "Why?") -> tuple[Stream, JobId] | RefusalBody:
        """The model is at the prompt now; or why it is not."""
        provider = self._provider.node
        await self._network.connect(provider.peer_id, provider._parts.network.addresses())
        stream = await self._network.open_stream(provider.peer_id, JOB_PROTOCOL)
        payload = b"".join(bytes(piece) for piece in encode_payload(asked(prompt, max_tokens=1000).payload()))
        model = next(iter(self._provider.engine.manifests))
        terms = JobTerms(model, Tier.SEALED, 4096, len(payload), None, 60, 0, instalment=64, prepaid=4096)
        job = ClientJob(LEAVER, provider.peer_id, next(self._ids), terms, deadline=trio.current_time() + 60)
        for effect in job.start(trio.current_time()):
            assert isinstance(effect, Send)
            await stream.send(effect.message.encode())
        said = await take(stream, Quote, Refusal)
        if isinstance(said, Refusal):
            await stream.aclose()
            return decode_refusal_body(said.body)
        job.handle_message(said, unix_ms=unix_ms())
        payment = await self._money.reserve(provider.peer_id, job.job_id, job.first_total)
        accept, seal = job.accept(payment, now=trio.current_time(), unix_ms=unix_ms())
        assert isinstance(accept, Send)
        assert isinstance(seal, SendInput)
        piece = bytes(seal.sealer.seal(payload, True))
        await stream.send(accept.message.encode(), Input(job.job_id, piece, True).encode())
        await take(stream, StreamHead)
        return stream, job.job_id

    async def refusal(self) -> RefusalBody:
        said = await self.worked_on()
        assert isinstance(said, RefusalBody)
        assert said.reason is RefusalReason.STANDING
        assert said.needed
        return said


def unix_ms() -> int:
    return int(VirtualClock().unix() * 1000)


async def take(stream: Stream, *kinds: type[JobMessage]) -> JobMessage:
    with trio.fail_after(30):
        message = decode_message(await stream.receive())
    assert isinstance(message, kinds), message
    return message


async def cancels(stream: Stream, job_id: JobId) -> None:
    await stream.send(Cancel(job_id).encode())
    await take(stream, Failure)
    await stream.aclose()


async def resets(stream: Stream, _: JobId) -> None:
    await stream.reset()
    await trio.sleep(0.1)


@asynccontextmanager
async def open_leaver(folder: Path, sim: Simulation, provider: RunningNode) -> AsyncIterator[Leaver]:
    with open_local_settlement(folder / "leaver.sqlite3", LEAVER, IdentityKey.from_seed(b"c" * 32)) as money:
        async with sim.hub.open(LEAVER.peer_id) as network:
            yield Leaver(network, money, provider)


@pytest.mark.parametrize("leaves", [cancels, resets])
async def test_who_leaves_after_the_prompt_over_and_over_is_refused(
    tmp_path: Path,
    writer: Path,
    autojump_clock: trio.testing.MockClock,
    leaves: Callable[[Stream, JobId], object],
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 1)
        provider = sim.nodes["one"]
        provider.engine.writing.prompt_token_s = 10.0  # it is at the prompt for minutes
        async with open_leaver(tmp_path, sim, provider) as leaver:
            for _ in range(limits.LATE_JOBS_FREE + 1):
                begun = await leaver.worked_on()
                assert not isinstance(begun, RefusalBody)
                await leaves(*begun)  # type: ignore[misc]
            refused = await leaver.refusal()
            assert "9 were left lately after work worth" in refused.detail
            assert all(each.ended.is_set() for each in provider.engine.streams), (
                "the work ends as soon as nobody wants it"
            )
        await sim.kill("one")
        provider = await sim.start("one", model=writer)
        async with open_leaver(tmp_path, sim, provider) as leaver:
            refused = await leaver.refusal()  # a restart forgets nothing
            assert refused.needed is not None
            await trio.sleep(refused.needed / 1000 + 1)
            assert not isinstance(await leaver.worked_on(), RefusalBody)
        provider.engine.writing.prompt_token_s = 0.0
        await client.node.offers("writer")
        await client.node.generate("writer", "Why?", max_tokens=5).read()


async def test_a_few_long_prompts_are_as_much_as_many_short_ones(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cocoon_p2p.policy.late_cancels.LATE_VALUE_FREE", 20_000)
    async with Simulation(tmp_path, seed=1) as sim:
        await start_all(sim, writer, 1)
        async with open_leaver(tmp_path, sim, sim.nodes["one"]) as leaver:
            for _ in range(2):
                begun = await leaver.worked_on("Why? " * 800)  # 1,000 tokens at 10 nanogram
                assert not isinstance(begun, RefusalBody)
                await resets(*begun)
            assert "2 were left lately" in (await leaver.refusal()).detail


async def test_a_client_whose_line_breaks_now_and_then_is_never_refused(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Twenty answers, of which every second is lost in the middle and goes on at the other provider."""
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 2)
        for number in range(20):
            answer = client.node.generate("writer", f"Why {number}?", max_tokens=100)
            if number % 2 == 0:
                await tokens_come(answer, 1 + number * 4)
                name = writing(sim)
                assert name is not None
                await client.node._parts.network.disconnect(sim.nodes[name].node.peer_id)
            assert await answer.read() == whole_answer(asked(f"Why {number}?", max_tokens=100))
            assert "STANDING" not in {each["code"] for each in answer.attempts}
