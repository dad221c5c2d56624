"""The local API's part of `cocoon-node doctor`: what it takes and what it refuses."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from cocoon_p2p.cli.api_client import LocalApi
from cocoon_p2p.cli.doctor_checks import Check
from cocoon_p2p.cli.doctor_rounds import Rounds
from cocoon_p2p.errors import CocoonError, ConfigError, TransportError
from cocoon_p2p.gateway.local_api import serve_local_api
from cocoon_p2p.home import Home
from cocoon_p2p.node import Node
from cocoon_p2p.tensors import Payload, string_tensor

ANSWER = Payload((string_tensor("text", ["an answer"]),))


class StandIn:
    """A node that answers as it is told."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.failure: CocoonError | None = None

    def health(self) -> dict[str, Any]:
        return {"offers": []}

    async def heard(self, leave_out: str | None) -> list[dict[str, Any]]:
        self.asked.append(leave_out)
        return [{"knows": True}]

    async def own_answer(self, model: str, seed: int) -> tuple[dict[str, Any], Payload]:
        self.asked.append((model, seed))
        if self.failure is not None:
            raise self.failure
        return {"tame": 1}, ANSWER


async def with_api(folder: Path, node: StandIn, work: Callable[[LocalApi], None]) -> None:
    place = folder / "api.sock"
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_local_api, cast(Node, node), place))
            await trio.to_thread.run_sync(work, LocalApi(place))
            nursery.cancel_scope.cancel()


async def test_the_addresses_answer(tmp_path: Path) -> None:
    node = StandIn()

    def ask(api: LocalApi) -> None:
        assert api.get("/v1/doctor") == {"offers": []}
        assert api.get("/v1/heard", leave_out="somebody") == {"peers": [{"knows": True}]}
        head, answer = api.canary("minilm", 7)
        assert head == {"tame": 1}
        assert bytes(answer.tensors[0].data) == bytes(ANSWER.tensors[0].data)

    await with_api(tmp_path, node, ask)
    assert node.asked == ["somebody", ("minilm", 7)]


@pytest.mark.parametrize(
    "wanted",
    [{}, {"model": "minilm"}, {"seed": 1}, {"model": "minilm", "seed": -1}, {"model": 3, "seed": 1}, {"mode": "m"}],
)
async def test_a_canary_needs_a_model_and_a_seed(tmp_path: Path, wanted: dict[str, Any]) -> None:
    node = StandIn()

    def ask(api: LocalApi) -> None:
        with pytest.raises(ConfigError):
            api.post("/v1/canary", wanted)

    await with_api(tmp_path, node, ask)
    assert node.asked == []


async def test_what_the_node_cannot_run_is_its_error(tmp_path: Path) -> None:
    node = StandIn()
    node.failure = CocoonError("the model takes longer than 8 s here", code="TIMEOUT")

    def ask(api: LocalApi) -> None:
        with pytest.raises(CocoonError) as caught:
            api.canary("minilm", 7)
        assert caught.value.code == "TIMEOUT"

    await with_api(tmp_path, node, ask)


class DeadApi:
    """The local API of a node that answers its status, and then breaks in every way."""

    def __init__(self, *, status: dict[str, Any] | None = None) -> None:
        self.status = status

    def get(self, address: str, **parameters: Any) -> dict[str, Any]:
        if self.status is None:
            raise TransportError("the node stopped answering", outcome_known=False)
        if address == "/v1/status":
            return self.status
        if address == "/v1/peers":
            return {"peers": []}
        if address == "/v1/doctor":
            return {}
        if address == "/v1/jobs":
            raise TransportError("the node stopped answering", outcome_known=False)
        raise OSError("never asked")


def rounds(api: DeadApi, folder: Path, said: list[Check]) -> Rounds:
    home = Home(folder / "home")
    home.init()
    return Rounds(cast(LocalApi, api), home, "", say=said.append, canary=True, timeout_s=5.0, rng=random.Random(1))


async def test_a_check_that_breaks_is_a_failed_line_and_not_the_end(tmp_path: Path) -> None:
    model = {"name": "minilm", "model_id": "ab" * 32, "loaded": True, "device": "cpu"}
    status = {
        "peer_id": "me",
        "addresses": [],
        "bootstrap": [],
        "idle": None,
        "models": [model],
        "settlement_network": 0,
    }
    said: list[Check] = []
    checks = await rounds(DeadApi(status=status), tmp_path, said).run()
    assert said == checks
    by_name = {check.name: check for check in checks}
    assert by_name["home"].state == "fail"
    assert "stopped answering" in by_name["home"].seen
    for name in ("clock", "reachability", "model minilm", "price minilm", "idle rules"):
        assert (by_name[name].state, "the check itself broke" in by_name[name].seen) == ("fail", True), by_name[name]
    assert by_name["stranger"].state == "skip"
    assert by_name["money"].state == "pass"


class ClusterApi(DeadApi):
    """A node that offers a cluster's model."""

    def get(self, address: str, **parameters: Any) -> dict[str, Any]:
        if address == "/v1/doctor":
            return {"offers": [{"model_id": "ab" * 32, "device": "upstream", "prices": {"open": 5}}], "no_jail": None}
        return super().get(address, **parameters)

    def canary(self, model: str, seed: int) -> None:
        raise CocoonError("there is no model here", code="NO_MODEL")


async def test_a_cluster_s_model_is_no_fault_because_its_files_are_not_here(tmp_path: Path) -> None:
    model = {"name": "far", "model_id": "ab" * 32, "loaded": True, "device": "upstream", "upstream": {"kind": "openai"}}
    status = {
        "peer_id": "me",
        "addresses": [],
        "bootstrap": [],
        "idle": None,
        "models": [model],
        "settlement_network": 0,
    }
    by_name = {check.name: check for check in await rounds(ClusterApi(status=status), tmp_path, []).run()}
    assert (by_name["model far"].state, by_name["model far"].seen) == ("pass", "loaded on upstream, as announced")
    assert by_name["purchase far"].state == "skip"


async def test_a_node_without_a_status_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TransportError):
        await rounds(DeadApi(), tmp_path, []).run()
