"""Text that comes piece by piece over the simulated network: paid by instalments, whole whatever happens to providers, and never dearer
than what came. Virtual time."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest
import trio
import trio.testing
from test_sim_jobs import autojump_clock

from cocoon_p2p import limits
from cocoon_p2p.errors import CocoonError, ConfigError, ExecutionError, PeerRefused, SettlementError
from cocoon_p2p.generation import GenerationRequest
from cocoon_p2p.node_generate import Generation
from cocoon_p2p.testing.simulated_writing import prompt_tokens, whole_answer
from cocoon_p2p.testing.simulation import RunningNode, Simulation
from cocoon_p2p.testing.writing_model import writing_model

__all__ = ["autojump_clock"]

NAMES = ("one", "two", "three", "four", "five", "six")
BASE, EACH = 1000, 10


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return writing_model(tmp_path_factory.mktemp("writer"), price_base=BASE, price_per_item=EACH)


def asked(prompt: str = "Why?", **more: object) -> GenerationRequest:
    """As the simulated model is asked: its model has a chat template."""
    said = {"role": "user", "content": prompt}
    return GenerationRequest(messages=(said,), **more)  # type: ignore[arg-type]


async def start_all(sim: Simulation, model: Path, count: int, *, token_s: float = 0.02) -> RunningNode:
    """So many providers, and a client that knows all of them."""
    await sim.start("bootstrap")
    for name in NAMES[:count]:
        provider = await sim.start(name, model=model)
        provider.engine.writing.token_s = token_s
    client = await sim.start("client")
    await client.node.offers("writer")
    await trio.sleep(2)
    return client


def writing(sim: Simulation) -> str | None:
    """Who is at an answer now."""
    for name in NAMES:
        if name in sim.nodes and any(not each.ended.is_set() for each in sim.nodes[name].engine.streams):
            return name
    return None


async def tokens_come(generation: Generation, count: int) -> None:
    """Until so many are here."""
    while generation.usage.completion_tokens < count:
        await generation.next_piece()


async def books(sim: Simulation, *, meet: bool = False) -> tuple[int, int]:
    """(spent by the client, earned by all providers). With `meet` it gives each of them one more job first, which is when they say what
    became of those that broke off."""
    sim.hub.heal()
    client = sim.nodes["client"]
    providers = [sim.nodes[name] for name in NAMES if name in sim.nodes]
    await trio.sleep(60)
    for provider in providers if meet else ():
        provider.engine.writing.fails_at = None
        await client.node.generate("writer", "x", max_tokens=1, provider=provider.node.peer_id).read()
    await trio.sleep(60)
    earned = [(await provider.node.wallet())["earned_nanogram"] for provider in providers]
    return int((await client.node.wallet())["spent_nanogram"]), sum(earned)


def asked_once_more(count: int) -> int:
    """Nanogram for the jobs of `books`."""
    return count * (BASE + EACH * (prompt_tokens(asked("x", max_tokens=1)) + 1))


async def test_an_answer_comes_piece_by_piece_and_is_paid(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 1)
        texts, times = [], []
        async with client.node.generate("writer", "Why?", max_tokens=200, seed=7) as answer:
            async for token in answer:
                texts.append(token.text)
                times.append(trio.current_time())
        request = asked(max_tokens=200, seed=7)
        assert "".join(texts) == answer.text == whole_answer(request)
        assert answer.finish == "length"
        usage = answer.usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (prompt_tokens(request), 200)
        assert answer.price_nanogram == BASE + EACH * (prompt_tokens(request) + 200)
        assert answer.provider == sim.nodes["one"].node.peer_id
        assert answer.attempts == []
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert max(gaps) < 0.05, "never held up by a payment"
        spent, earned = await books(sim)
        assert spent == earned == answer.price_nanogram
        for node, role in ((client, "client"), (sim.nodes["one"], "provider")):
            (job,) = node.node.jobs()
            assert (job["role"], job["state"], job["price_nanogram"]) == (role, "done", answer.price_nanogram)
            (receipt,) = node.node.receipts()
            assert receipt["client_signature"]
        (channel,) = (await client.node.wallet())["channels"]
        assert channel["reserved_nanogram"] == 0


async def test_neither_side_risks_more_than_an_instalment(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 1)
        async with client.node.generate("writer", "Why?", max_tokens=400) as answer:
            while answer.finish is None:
                await answer.next_piece()
                (stream,) = sim.nodes["one"].engine.streams
                (channel,) = (await client.node.wallet())["channels"]
                worked = stream.prompt_items + answer.usage.completion_tokens
                ahead = (channel["cumulative_nanogram"] - BASE) / EACH - worked
                assert ahead <= limits.INSTALMENT_TOKENS, "all that the client may lose"
                assert stream.allowed - worked <= limits.INSTALMENT_TOKENS, "all that the provider may lose"
                assert worked <= stream.allowed


async def test_cancelling_stops_the_work_and_pays_what_came(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 1)
        answer = client.node.generate("writer", "Why?", max_tokens=4000)
        await tokens_come(answer, 30)
        (stream,) = sim.nodes["one"].engine.streams
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer.cancel)
            await stream.ended.wait()
            assert trio.current_time() - began < 0.1, "the worker has stopped"
        assert answer.finish == "caller"
        count = answer.usage.completion_tokens
        assert 30 <= count <= 33
        rest = [token async for token in answer if token.id is not None]
        assert len(rest) == count - 30, "what came can still be read"
        request = asked(max_tokens=4000)
        assert answer.price_nanogram == BASE + EACH * (prompt_tokens(request) + count)
        assert await books(sim) == (answer.price_nanogram, answer.price_nanogram)


@pytest.mark.parametrize("how", ["break", "cancel scope", "thrown away"])
async def test_leaving_early_stops_the_work_and_pays_what_came(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock, how: str
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 1)
        generate = client.node.generate
        if how == "break":
            async with generate("writer", "Why?", max_tokens=4000) as answer:
                await tokens_come(answer, 10)
        elif how == "cancel scope":
            with trio.move_on_after(1):
                async with generate("writer", "Why?", max_tokens=4000) as answer:
                    await answer.read()
        else:
            left = generate("writer", "Why?", max_tokens=4000)
            await tokens_come(left, 10)
            del left
        await trio.sleep(0.2)
        (stream,) = sim.nodes["one"].engine.streams
        assert stream.ended.is_set()
        spent, earned = await books(sim)
        assert spent == earned > BASE
        if how != "thrown away":
            assert answer.price_nanogram == spent


@pytest.mark.parametrize("how", ["killed", "cut off", "frozen", "worker died"])
async def test_another_provider_goes_on_without_a_gap_or_a_repeat(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock, how: str
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 2)
        answer = client.node.generate("writer", "Why?", max_tokens=300, temperature=1.0, seed=5)
        texts = []
        async with answer:
            for _ in range(100):
                texts.append((await answer.__anext__()).text)
            first = writing(sim)
            assert first is not None
            lost = sim.nodes[first].node.peer_id
            began = trio.current_time()
            if how == "killed":
                await sim.kill(first)
            elif how == "frozen":
                sim.hub.freeze(lost)
            elif how == "cut off":
                await client.node._parts.network.disconnect(lost)
            else:
                sim.nodes[first].engine.writing.fails_at = 110
            async for token in answer:
                texts.append(token.text)
        request = asked(max_tokens=300, temperature=1.0, seed=5)
        assert "".join(texts) == answer.text == whole_answer(request)
        assert answer.usage.completion_tokens == 300
        assert [each["provider"] for each in answer.attempts] == [lost]
        assert answer.provider != lost
        silence = limits.PROGRESS_SILENCE_S if how == "frozen" else 0.0
        assert trio.current_time() - began < silence + 200 * 0.02 + 3.0
        if how == "killed":
            await sim.start(first, model=writer)  # with its old home
            (job,) = sim.nodes[first].node.jobs()
            assert (job["state"], job["price_nanogram"]) == (
                "done",
                sim.nodes[first].node.receipts()[0]["price_nanogram"],
            )
        spent, earned = await books(sim, meet=True)
        assert spent == earned <= answer.price_nanogram + asked_once_more(2)
        both = 2 * (BASE + EACH * prompt_tokens(request)) + EACH * 300
        assert both < answer.price_nanogram <= both + EACH * 110, (
            "what came, and once more the prompt and it as a prompt"
        )
        assert all(each.ended.is_set() for name in NAMES[:2] for each in sim.nodes[name].engine.streams)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_kills_freezes_and_breaks_at_random_points(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock, seed: int
) -> None:
    """Up to four providers are lost in the middle of six answers; every text is whole, and the money the same at both ends."""
    rng = random.Random(seed)
    async with Simulation(tmp_path, seed=seed) as sim:
        client = await start_all(sim, writer, 6)
        texts: dict[int, Generation] = {}

        async def one(number: int) -> None:
            await trio.sleep(rng.random())
            answer = texts[number] = client.node.generate(
                "writer", f"Why {number}?", max_tokens=rng.randint(50, 300), temperature=1.0, seed=number, timeout_s=300
            )
            assert await answer.read() == whole_answer(
                asked(f"Why {number}?", max_tokens=answer.usage.completion_tokens, temperature=1.0, seed=number)
            )

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(one, number)
            killed = []
            for _ in range(4):
                await trio.sleep(0.3 + rng.random())
                name = writing(sim)
                if name is None:
                    continue
                match rng.randrange(4):
                    case 0:
                        await sim.kill(name)
                        killed.append(name)
                    case 1:
                        sim.hub.freeze(sim.nodes[name].node.peer_id)
                    case 2:
                        await client.node._parts.network.disconnect(sim.nodes[name].node.peer_id)
                    case _:
                        sim.nodes[name].engine.writing.fails_at = rng.randint(1, 300)
        sim.hub.heal()
        for name in killed:
            await sim.start(name, model=writer)
        assert {answer.finish for answer in texts.values()} == {"length"}
        spent, earned = await books(sim, meet=True)
        assert spent == earned <= sum(answer.price_nanogram for answer in texts.values()) + asked_once_more(6)


async def test_a_provider_that_goes_on_and_on_is_left(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 2)
        for name in NAMES[:2]:
            sim.nodes[name].engine.writing.endless = True
        answer = client.node.generate("writer", "Why?", max_tokens=70)
        await tokens_come(answer, 10)
        greedy = writing(sim)
        assert greedy is not None
        for name in NAMES[:2]:
            sim.nodes[name].engine.writing.endless = name == greedy
        assert await answer.read() == whole_answer(asked(max_tokens=70))
        (failure,) = answer.attempts
        assert (failure["provider"], failure["code"]) == (sim.nodes[greedy].node.peer_id, "PAYLOAD")


async def test_the_next_turn_of_a_chat_goes_where_the_one_before_was(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 5)

        async def turn(chat: str) -> str:
            answer = client.node.generate("writer", "Why?", max_tokens=5, chat=chat)
            await answer.read()
            assert answer.provider is not None
            return answer.provider

        first = await turn("one chat")
        assert {await turn("one chat") for _ in range(8)} == {first}
        assert len({await turn("") for _ in range(12)}) > 1, "others are spread"
        (name,) = [name for name in NAMES[:5] if sim.nodes[name].node.peer_id == first]
        await sim.kill(name)
        second = await turn("one chat")
        assert second != first
        assert {await turn("one chat") for _ in range(4)} == {second}


async def test_a_limit_counts_for_all_providers_together(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 2)
        with pytest.raises(PeerRefused) as refused:
            await client.node.generate("writer", "Why?", max_tokens=100, max_price=BASE + 50 * EACH).read()
        assert refused.value.code == "PRICE"
        assert not sim.nodes["one"].engine.streams + sim.nodes["two"].engine.streams
        for limit, enough in ((6500, True), (4500, False)):
            async with client.node.generate("writer", "Why?", max_tokens=100, max_price=limit) as answer:
                await tokens_come(answer, 50)
                first = writing(sim)
                assert first is not None
                sim.nodes[first].engine.writing.fails_at = 55
                if enough:
                    await answer.read()
                else:
                    with pytest.raises(ExecutionError, match="killed"):
                        await answer.read()
            sim.nodes[first].engine.writing.fails_at = None
            assert BASE < answer.price_nanogram <= limit
            assert (answer.finish == "length") is enough


async def test_what_came_is_kept_when_nobody_is_left(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 1)
        answer = client.node.generate("writer", "Why?", max_tokens=100, timeout_s=90)
        await tokens_come(answer, 64)
        await sim.kill("one")
        with pytest.raises(CocoonError, match=r"went away|broke|closed the connection"):
            await answer.read()
        assert 80 < trio.current_time() - answer._answer.started <= 91, "it may come back until the time is over"
        assert whole_answer(asked(max_tokens=100)).startswith(answer.text)
        assert answer.usage.completion_tokens >= 64
        assert answer.finish is None
        (row,) = client.node.jobs()
        assert row["state"] == "unknown"
        assert client.node.why(answer.job_id)["chosen"] is not None


async def test_a_client_that_dies_owes_what_it_acknowledged(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 1)
        answer = client.node.generate("writer", "Why?", max_tokens=4000)
        await tokens_come(answer, 150)
        await sim.kill("client")
        (stream,) = sim.nodes["one"].engine.streams
        await trio.sleep(1)
        assert stream.ended.is_set()
        client = await sim.start("client")
        await client.node.generate("writer", "And now?", max_tokens=10).read()
        spent, earned = await books(sim)
        assert spent == earned
        first = (spent - 2 * BASE) // EACH
        assert first > 150 - limits.INSTALMENT_TOKENS, "the most that it may lose"
        (channel,) = [each for each in (await client.node.wallet())["channels"] if not each["closed"]]
        assert channel["reserved_nanogram"] == 0


async def test_a_wallet_that_runs_dry_ends_the_answer(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dear = writing_model(tmp_path_factory.mktemp("dear"), name="dear", price_base=0, price_per_item=10**8)
    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        await sim.start("one", model=dear)
        client = await sim.start("client")
        have = (await client.node.wallet())["available_nanogram"] // 10**8
        answer = client.node.generate("dear", "Why?", max_tokens=have, max_price=10**12)
        with pytest.raises(SettlementError):
            await answer.read()
        assert 0 < answer.usage.completion_tokens < have
        assert whole_answer(asked(max_tokens=have)).startswith(answer.text)
        spent, earned = await books(sim)
        assert spent == earned == answer.price_nanogram


async def test_wrong_wishes_are_refused_before_anything_is_paid(
    tmp_path: Path, writer: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 1)
        with pytest.raises(ConfigError, match="temperature"):
            client.node.generate("writer", "Why?", temperature=-1)
        with pytest.raises(ConfigError, match="either a prompt or messages"):
            client.node.generate("writer")
        with pytest.raises(ConfigError):
            client.node.generate("writer", messages=[{"role": "user", "content": object()}])
        with pytest.raises(ExecutionError, match="generates text"):
            await client.node.run("writer", text=["a"])
        await sim.start("two", model=echo_model)
        await trio.sleep(30)
        with pytest.raises(ExecutionError, match="generates no text"):
            await client.node.generate("echo", "Why?").read()
        assert (await client.node.wallet())["spent_nanogram"] == 0


async def test_many_answers_at_once_share_a_stream(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 1)
        done = []

        async def one(number: int) -> None:
            answer = client.node.generate("writer", f"{number}", max_tokens=150, seed=number)
            assert await answer.read() == whole_answer(asked(f"{number}", max_tokens=150, seed=number))
            done.append(answer.price_nanogram)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(16):
                nursery.start_soon(one, number)
        assert trio.current_time() - began < 150 * 0.02 * 1.5
        assert len(done) == 16
        assert await books(sim) == (sum(done), sum(done))


async def test_the_first_token_is_not_held_up(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1, latency_s=0.01) as sim:
        client = await start_all(sim, writer, 1)
        await client.node.generate("writer", "Why?", max_tokens=5).read()
        answer = client.node.generate("writer", "Why not?", max_tokens=5)
        await answer.read()
        assert answer.first_token_s is not None
        assert math.isclose(answer.first_token_s, 0.02 + 0.02, abs_tol=0.003), "there, a token, and back"
