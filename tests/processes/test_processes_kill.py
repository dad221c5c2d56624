"""kill -9 of every kind of process, in the middle of the work: what the others notice, how soon, and what is left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from memory_files import memory_files
from towns import ANYWHERE, NodeProcess, Town, eventually, explained

from cocoon_p2p.errors import CocoonError

pytestmark = pytest.mark.processes

ENDLESS = np.int64(10**12)
NOTICE_S = 1.0
"""The issue: "a provider that disappears in mid-job gives the client a clear error within a second"."""
X = np.ones((1, 4), np.float32)


@pytest.fixture(scope="module")
def rough_town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with Town(tmp_path_factory.mktemp("rough")) as town:
        yield town


@pytest.fixture
def town(rough_town: Town, model_files: dict[str, Path]) -> Town:
    """A bootstrap node, providers `one` and `two` of the models slow and matmul, and a client that knows both offers.
    Those that an earlier test killed are started again."""

    def dead(name: str) -> bool:
        return name not in rough_town.nodes or not rough_town.nodes[name].running

    if dead("bootstrap"):
        rough_town.start("bootstrap")
    join = [rough_town.nodes["bootstrap"].address]
    models = [part for name in ("slow", "matmul") for part in ("--model", str(model_files[name]))]
    started = [rough_town.launch(name, *models, bootstrap=join) for name in ("one", "two") if dead(name)]
    if dead("client"):
        started.append(rough_town.launch("client", bootstrap=join))
    for node in started:
        node.wait_ready()
    knows(rough_town, "one", "two")
    return rough_town


def knows(town: Town, *names: str) -> None:
    """Wait until the client has heard these providers since they were started, and knows of nobody else."""
    nodes = {town.nodes[name].peer_id: town.nodes[name] for name in names}

    def all_known() -> bool:
        now = time.monotonic()
        ages = {offer["peer_id"]: offer["age_ms"] / 1000 for offer in town.nodes["client"].offers("slow")}
        return ages.keys() == nodes.keys() and all(age < now - nodes[peer].launched for peer, age in ages.items())

    eventually(all_known, f"the client knows {names}", 15.0)  # half of ANNOUNCEMENT_INTERVAL_S


def busy(town: Town, *names: str) -> NodeProcess:
    """The provider that works on `slow`, once one does."""
    nodes = [town.nodes[name] for name in names]
    return eventually(lambda: next((node for node in nodes if node.working_on("slow")), None), "a job is in progress")


def descendants(town: Town, node: NodeProcess) -> set[int]:
    """Its fork server and workers."""
    below = {node.process.pid}
    while True:
        more = {pid for pid in town.processes() if parent(pid) in below} | below
        if more == below:
            return below - {node.process.pid}
        below = more


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def leave_only(town: Town, name: str) -> None:
    """The other provider goes in peace, and says so."""
    other = town.nodes["two" if name == "one" else "one"]
    other.send(signal.SIGTERM)
    assert other.wait() == 0, other.err.text
    knows(town, name)


@pytest.mark.slow
def test_the_job_of_a_killed_provider_is_done_by_the_other(town: Town) -> None:
    client = town.nodes["client"]
    turns = 2_000_000  # 1.2 s on one core
    heard = client.err.count()
    job = town.background(client.run, "slow", {"turns": np.int64(turns)})
    victim = busy(town, "one", "two")
    other = next(town.nodes[name] for name in ("one", "two") if town.nodes[name] is not victim)
    killed = victim.kill()
    noticed = client.err.wait_for(f"provider {victim.peer_id} failed the job", after=heard)
    assert noticed is not None
    assert noticed[0] - killed < NOTICE_S, noticed
    result, outputs = job.result(30)
    took = time.monotonic() - killed
    assert outputs["count"] == turns
    assert result["provider"] == other.peer_id
    assert [attempt["provider"] for attempt in result["attempts"]] == [victim.peer_id]
    execution = result["timeline_ms"]["execute"] / 1000
    assert took < execution + NOTICE_S, f"{took:.2f} s for a job of {execution:.2f} s"
    states = {row["peer_id"]: row["state"] for row in client.jobs()[:2]}
    assert states == {victim.peer_id: "unknown", other.peer_id: "done"}


def test_without_another_provider_the_error_is_clear_and_quick(town: Town, tmp_path: Path) -> None:
    leave_only(town, "one")
    client, victim = town.nodes["client"], town.nodes["one"]
    np.save(tmp_path / "turns.npy", ENDLESS)
    command = town.cli_started("run", "slow", "--input", f"turns={tmp_path / 'turns.npy'}", home=client.home)
    busy(town, "one")
    killed = victim.kill()
    ended = command.wait()
    took = time.monotonic() - killed
    line = explained(ended, 1)
    assert victim.peer_id in line
    assert took < NOTICE_S, f"{took:.2f} s"
    newest = town.cli("jobs", "--limit", "1", "--json", home=client.home).json["jobs"][0]
    assert (newest["state"], newest["peer_id"]) == ("unknown", victim.peer_id)
    assert victim.peer_id in newest["error"]
    wallet = client.wallet()
    assert all(channel["reserved_nanogram"] == 0 for channel in wallet["channels"])


def test_nothing_is_left_of_a_killed_provider(town: Town) -> None:
    victim = town.nodes["two"]
    job = town.background(town.nodes["client"].run, "slow", {"turns": ENDLESS}, provider=victim.peer_id, timeout_s=20)
    busy(town, "two")
    below = descendants(town, victim)
    assert len(below) >= 3, "a fork server and two workers"
    named, _ = memory_files([victim.process.pid, *below])
    assert not named, "what has no name goes with those that hold it"
    victim.kill()
    eventually(lambda: not below & set(town.processes()), "fork server and workers are gone")
    with pytest.raises(CocoonError, match=victim.peer_id):
        job.result(10)
    victim.err.join()  # nobody holds it any more


def test_the_work_of_a_killed_client_is_stopped(town: Town, tmp_path: Path) -> None:
    provider, client = town.nodes["one"], town.nodes["client"]
    job = town.background(client.run, "slow", {"turns": ENDLESS}, provider=provider.peer_id)
    busy(town, "one")
    assert any(channel["reserved_nanogram"] for channel in provider.wallet()["channels"])
    client.kill()
    eventually(lambda: not provider.working_on("slow"), "the provider stopped the work", 5.0)
    eventually(
        lambda: not any(channel["reserved_nanogram"] for channel in provider.wallet()["channels"]),
        "the reservation is freed",
        5.0,
    )
    assert provider.jobs()[0]["state"] == "failed"
    with pytest.raises(CocoonError, match="stopped answering"):
        job.result(10)


def test_a_job_whose_command_is_killed_is_cancelled(town: Town, tmp_path: Path) -> None:
    """Here the client node lives on, only the one who asked it is gone."""
    client = town.nodes["client"]
    np.save(tmp_path / "turns.npy", ENDLESS)
    command = town.cli_started("run", "slow", "--input", f"turns={tmp_path / 'turns.npy'}", home=client.home)
    provider = busy(town, "one", "two")
    command.process.kill()
    command.wait()
    eventually(lambda: not provider.working_on("slow"), "the provider stopped the work", 5.0)
    eventually(lambda: client.jobs()[0]["state"] in ("failed", "unknown"), "the client's job has ended", 5.0)


def test_a_killed_worker_costs_one_job(town: Town) -> None:
    provider, client = town.nodes["one"], town.nodes["client"]
    mine = {"provider": provider.peer_id, "timeout_s": 20}
    job = town.background(client.run, "slow", {"turns": ENDLESS}, **mine)
    busy(town, "one")
    pid = provider.model("slow")["pid"]
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    with pytest.raises(CocoonError, match="killed by signal 9"):
        job.result(10)
    assert time.monotonic() - killed < NOTICE_S
    _, outputs = client.run("slow", {"turns": np.int64(5)}, **mine)
    took = time.monotonic() - killed
    assert outputs["count"] == 5
    assert took < 2.0, f"{took:.2f} s"
    assert provider.running
    assert provider.model("slow")["pid"] != pid


def test_a_killed_idle_worker_costs_nothing(town: Town) -> None:
    provider, client = town.nodes["one"], town.nodes["client"]
    pid = provider.model("matmul")["pid"]
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    eventually(lambda: provider.model("matmul")["pid"] not in (pid, None), "there is a new worker", 2.0)
    _, outputs = client.run("matmul", {"x": X}, provider=provider.peer_id)
    assert outputs["y"].tolist() == [[18, 22, 26]]
    assert time.monotonic() - killed < 2.0


def test_a_killed_fork_server_costs_nothing(town: Town) -> None:
    provider, client = town.nodes["one"], town.nodes["client"]
    server = parent(provider.model("matmul")["pid"])
    assert parent(server) == provider.process.pid
    old = provider.model("matmul")["pid"]
    os.kill(server, signal.SIGKILL)
    _, outputs = client.run("matmul", {"x": X}, provider=provider.peer_id)
    assert outputs["y"].tolist() == [[18, 22, 26]], "by the worker that goes with it, or the next"
    pid = eventually(lambda: {provider.model("matmul")["pid"]} - {old, None}, "a new fork server makes a worker").pop()
    os.kill(pid, signal.SIGKILL)  # and another one
    eventually(lambda: provider.model("matmul")["pid"] not in (pid, None), "there is a new worker", 5.0)
    _, outputs = client.run("matmul", {"x": X}, provider=provider.peer_id)
    assert outputs["y"].tolist() == [[18, 22, 26]]


def test_a_provider_that_is_back_at_another_address_is_known_at_once(town: Town) -> None:
    """Its first announcement reaches those that it connects to only a moment later."""
    client = town.nodes["client"]
    town.nodes["two"].kill()
    join = [town.nodes["bootstrap"].address]
    back = town.start("two", "--listen", ANYWHERE, bootstrap=join)
    knows(town, "one", "two")
    result, _ = client.run("slow", {"turns": np.int64(1)}, provider=back.peer_id)
    assert result["attempts"] == []


def test_the_market_outlives_its_bootstrap_node(town: Town, tmp_path: Path) -> None:
    client, one = town.nodes["client"], town.nodes["one"]
    town.nodes["bootstrap"].kill()
    for name in ("one", "two"):
        provider = town.nodes[name]
        _, outputs = client.run("matmul", {"x": X}, provider=provider.peer_id)
        assert outputs["y"].tolist() == [[18, 22, 26]]
    assert {offer["peer_id"] for offer in client.offers("matmul")} == {town.nodes[n].peer_id for n in ("one", "two")}
    np.save(tmp_path / "x.npy", X)
    newcomer = town.cli(
        "run", "matmul", "--input", f"x={tmp_path / 'x.npy'}", "--bootstrap", one.address, "--json",
        home=town.root / "newcomer",
    )  # fmt: skip
    assert newcomer.json["price_nanogram"] == 110_000
