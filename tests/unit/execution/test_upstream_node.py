"""A provider that serves its operator's cluster: what others see of it, and what they can have done there. Whole nodes over the
simulated network, and HTTP to a real server, so the clock is the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from upstream_cluster import KEY, MODEL, open_cluster

from cocoon_p2p.assembly_engines import upstream_offers
from cocoon_p2p.config import NodeConfig, UpstreamSection
from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.errors import CocoonError, ConfigError, PeerRefused, RefusalReason
from cocoon_p2p.ids import JobId, ModelId, PeerId, Tier
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.node import Node
from cocoon_p2p.policy.admission import Refused
from cocoon_p2p.testing import models
from cocoon_p2p.testing.simulation import Simulation
from cocoon_p2p.wire.job import Ask

pytestmark = pytest.mark.slow


def config_of(key_file: Path, *sections: UpstreamSection, **provider: Any) -> NodeConfig:
    config = NodeConfig()
    upstream = tuple(replace(each, api_key_file=str(key_file)) for each in sections)
    return replace(config, upstream=upstream, provider=replace(config.provider, **provider))


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    return path


@asynccontextmanager
async def served(folder: Path, config: NodeConfig) -> AsyncIterator[tuple[Node, Node]]:
    """A provider with this configuration, and a client."""
    source = models.copy_model(folder, "float32", ("batch", 4))
    own = ModelRegistry(folder / "models").add(source, name="echo").folder
    async with Simulation(folder / "nodes") as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=own, config=config)
        client = await sim.start("client")
        yield provider.node, client.node
        await client.leave()
        await provider.leave()


async def until(true: Callable[[], bool]) -> None:
    """The node tells nobody when its offers change, so this looks again and again."""
    with trio.fail_after(20):
        while not true():  # noqa: ASYNC110
            await trio.sleep(0.02)


async def offered(client: Node, name: str) -> dict[str, Any]:
    with trio.fail_after(20):
        while not (found := [row for row in await client.offers() if row["name"] == name]):  # noqa: ASYNC110
            await trio.sleep(0.02)
    return dict(found[0])


def refusal_of_sealed(provider: Node, model_id: str) -> Refused:
    """What the provider says to a client that asks all the same."""
    serving = provider._parts.serving
    assert serving is not None
    ask = Ask(JobId(bytes(16)), ModelId(model_id), Tier.SEALED, 1, 64, 0, 1000, 0)
    answer = serving._desk.decide(ask, client=PeerId("somebody"), jobs_of_client=0, unix_ms=0)
    assert isinstance(answer, Refused)
    return answer


async def test_a_cluster_is_served_in_tier_open(tmp_path: Path, key_file: Path) -> None:
    async with open_cluster() as cluster:
        vectors = UpstreamSection(
            "vectors", "openai", "embedding", cluster.url, MODEL, price_base=500, price_per_item=7
        )
        adder = UpstreamSection("adder", "open-inference", url=cluster.url, model="adder")
        async with served(tmp_path, config_of(key_file, vectors, adder)) as (provider, client):
            rows = {row["name"]: row for row in provider.models()}
            assert set(rows) == {"echo", "vectors", "adder"}
            assert rows["vectors"]["device"] == "upstream"
            offer = await offered(client, "vectors")
            assert (offer["device"], set(offer["prices"])) == ("upstream", {"open"})
            assert set((await offered(client, "echo"))["prices"]) == {"sealed", "open"}
            book = {line["name"]: line["devices"] for line in (await client.market())["book"]}
            assert (book["vectors"], book["echo"]) == ({"upstream": 1}, {"other": 1}), (
                "a simulated device is no kind that has a name"
            )
            outputs = await client.run("vectors", text=["banana", "b"], tier="open")
            assert outputs["embedding"].tolist() == [[6, 1], [1, 0]]
            with pytest.raises(PeerRefused) as caught:
                await client.run("vectors", text=["a"])
            assert caught.value.code == "TIER"
            assert "offers open, not sealed" in caught.value.message
            refused = refusal_of_sealed(provider, offer["model_id"])
            assert (refused.reason, refused.detail) == (RefusalReason.TIER, "vectors is offered for: open")
            (job,) = [row for row in client.jobs() if row["state"] == "done"]
            assert job["price_nanogram"] == 500 + 2 * 7


async def test_text_that_a_cluster_generates(tmp_path: Path, key_file: Path) -> None:
    async with open_cluster() as cluster:
        llama = UpstreamSection("llama", url=cluster.url, model=MODEL, price_base=0, price_per_item=100)
        async with served(tmp_path, config_of(key_file, llama)) as (_, client):
            await offered(client, "llama")
            generation = client.generate("llama", "say hello", max_tokens=50, tier="open")
            texts = [token.text async for token in generation]
            assert "".join(texts) == generation.text == "Hallo Welt, grüß dich!"
            assert generation.finish == "stop"
            assert generation.usage.prompt_tokens == 5
            assert generation.price_nanogram == 100 * (5 + 7)
            assert cluster.asked[0]["messages"] == [{"role": "user", "content": "say hello"}]
            with pytest.raises(CocoonError):
                await client.generate("llama", "say hello", regex="a+", tier="open").read()


async def test_a_cluster_that_comes_and_goes(
    tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cocoon_p2p.drivers.upstreams.UPSTREAM_RETRY_S", 0.05)
    async with open_cluster() as first:
        url, port = first.url, first.port
    section = UpstreamSection("adder", "open-inference", url=url, model="adder")
    async with served(tmp_path, config_of(key_file, section)) as (provider, client):
        assert [row["name"] for row in provider.models()] == ["echo"]
        (row,) = provider.status()["upstreams"]
        assert (row["name"], row["model"]) == ("adder", "adder")
        assert row["problem"].startswith(f"cannot be reached at {url}")
        async with open_cluster(port=port):
            await until(lambda: len(provider.models()) == 2)
            await until(lambda: provider.status()["upstreams"][0]["problem"] is None)
            offer = await offered(client, "adder")
        ones = {"a": np.ones((1, 3), np.float32), "b": np.ones((1, 3), np.float32)}
        with pytest.raises(CocoonError):
            await client.run(offer["model_id"], ones, tier="open")
        await until(lambda: len(provider.models()) == 1)
        assert provider.status()["upstreams"][0]["problem"].startswith("cannot be reached")
    assert caplog.text.count("cannot be reached") == 2


async def test_what_can_never_be_served_stops_the_node(tmp_path: Path, key_file: Path) -> None:
    async with open_cluster() as cluster:
        adder = UpstreamSection("adder", "open-inference", url=cluster.url, model="adder")
        for config, words in (
            (config_of(key_file, adder, tiers=("sealed",)), "served in tier open alone"),
            (config_of(key_file, adder, replace(adder, name="another")), "name the same model"),
            (config_of(tmp_path / "none", adder), "cannot read"),
        ):
            with pytest.raises(ConfigError, match=words):
                async with open_plain_nursery(), served(tmp_path / words.replace(" ", ""), config):
                    pass
    (tmp_path / "bad").write_bytes(b"one\ntwo")
    with pytest.raises(ConfigError, match="holds no key") as caught:
        upstream_offers(config_of(tmp_path / "bad", adder))
    assert "two" not in caught.value.message
    assert KEY not in repr(upstream_offers(config_of(key_file, adder)))
