"""SIGTERM and Ctrl-C: while a node starts, idles and works. It ends soon, says why to those who wait for it, and leaves
nothing behind."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from towns import NodeProcess, Town, eventually

from cocoon_p2p.assembly import SHUTDOWN_GRACE_S
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.home import Home

pytestmark = [pytest.mark.processes, pytest.mark.slow]

ENDLESS = np.int64(10**12)


def sigterm(node: NodeProcess) -> float:
    return node.send(signal.SIGTERM)


def hang_up(node: NodeProcess) -> float:
    return node.send(signal.SIGHUP)


def ctrl_c(node: NodeProcess) -> float:
    return node.ctrl_c()


@pytest.fixture
def town(tmp_path: Path) -> Town:
    with Town(tmp_path / "town") as town:
        yield town


def provider_and_client(town: Town, model_files: dict[str, Path]) -> tuple[NodeProcess, NodeProcess]:
    provider = town.start("provider", "--model", str(model_files["slow"]))
    client = town.start("client", bootstrap=[provider.address])
    eventually(lambda: client.offers("slow"), "the offer is known")
    return provider, client


def ended_cleanly(town: Town, node: NodeProcess, status: int = 0) -> None:
    assert node.wait() == status, node.err.text
    node.err.join()
    assert "Traceback" not in node.err.text
    assert "cocoon-node: error" not in node.err.text
    assert " ERROR " not in node.err.text
    assert not (node.home / "api.sock").exists()
    eventually(lambda: str(node.home) not in " ".join(town.processes().values()), "no process of it is left")
    with Home(node.home).lock():
        pass


@pytest.mark.parametrize("end", [sigterm, ctrl_c, hang_up])
def test_the_job_in_progress_is_finished(
    town: Town, model_files: dict[str, Path], end: Callable[[NodeProcess], float]
) -> None:
    provider, client = provider_and_client(town, model_files)
    tried, _ = client.run("slow", {"turns": np.int64(100_000)})
    turns = int(1e8 / tried["timeline_ms"]["execute"])  # a second as the machine is now: well below the grace
    job = town.background(client.run, "slow", {"turns": np.int64(turns)})
    eventually(lambda: provider.working_on("slow"), "the job is in progress")
    end(provider)
    result, outputs = job.result(20)
    assert outputs["count"] == turns
    assert result["receipt"]["client_signature"]
    ended_cleanly(town, provider)
    assert [row["state"] for row in client.jobs()] == ["done", "done"]
    end(client)
    ended_cleanly(town, client)
    eventually(lambda: not town.processes(), "nothing is left")


def test_a_job_that_would_take_too_long_is_ended_and_the_client_told(
    town: Town, model_files: dict[str, Path], tmp_path: Path
) -> None:
    provider, client = provider_and_client(town, model_files)
    job = town.background(client.run, "slow", {"turns": ENDLESS})
    eventually(lambda: provider.working_on("slow"), "the job is in progress")
    asked = sigterm(provider)
    with pytest.raises(CocoonError) as caught:
        job.result(20)
    assert caught.value.code == "SHUTTING_DOWN"
    assert provider.wait() == 0
    assert time.monotonic() - asked < 2 * SHUTDOWN_GRACE_S
    ended_cleanly(town, provider)
    (row,) = client.jobs()
    assert row["state"] == "failed", "the outcome is known: nothing was earned"
    assert client.wallet()["spent_nanogram"] == 0


def test_a_new_job_is_refused_while_the_node_stops(town: Town, model_files: dict[str, Path]) -> None:
    provider, client = provider_and_client(town, model_files)
    job = town.background(client.run, "slow", {"turns": ENDLESS})
    eventually(lambda: provider.working_on("slow"), "the job is in progress")
    sigterm(provider)
    assert provider.err.wait_for("stopping; the same again stops at once")

    def refused() -> bool:
        try:
            # One that was accepted at the last moment waits behind the other: not until that is ended.
            client.run("slow", {"turns": np.int64(1)}, provider=provider.peer_id, timeout_s=0.5)
        except CocoonError as error:
            return error.code in ("SHUTTING_DOWN", "NO_MODEL")  # it says no, or has said that it offers nothing more
        return False

    eventually(refused, "a new job is refused", 3.0)
    assert not job.done(), "the earlier one goes on"
    sigterm(client)  # which takes its job back, and the provider need not wait any longer
    with pytest.raises(CocoonError):
        job.result(20)
    ended_cleanly(town, provider)


@pytest.mark.parametrize("end", [sigterm, ctrl_c])
def test_the_second_signal_ends_it_at_once(
    town: Town, model_files: dict[str, Path], end: Callable[[NodeProcess], float]
) -> None:
    provider, client = provider_and_client(town, model_files)
    job = town.background(client.run, "slow", {"turns": ENDLESS})
    eventually(lambda: provider.working_on("slow"), "the job is in progress")
    end(provider)
    assert provider.err.wait_for("stopping; the same again stops at once")
    asked = end(provider)
    assert provider.wait() == -(signal.SIGTERM if end is sigterm else signal.SIGINT)
    assert time.monotonic() - asked < SHUTDOWN_GRACE_S / 2, "0.01 s on an idle machine; the job is not waited for"
    with pytest.raises(CocoonError, match=provider.peer_id):
        job.result(20)
    eventually(lambda: str(provider.home) not in " ".join(town.processes().values()), "nothing of it is left")
    provider.err.join()
    assert "Traceback" not in provider.err.text


def test_a_client_that_stops_ends_its_job(town: Town, model_files: dict[str, Path]) -> None:
    provider, client = provider_and_client(town, model_files)
    job = town.background(client.run, "slow", {"turns": ENDLESS})
    eventually(lambda: provider.working_on("slow"), "the job is in progress")
    sigterm(client)
    with pytest.raises(CocoonError):
        job.result(10)
    ended_cleanly(town, client)
    eventually(lambda: not provider.working_on("slow"), "the provider stopped the work", 5.0)
    assert provider.running


MOMENTS = {
    "the first note": lambda node: node.err.wait_for("made a new identity"),
    "the lock": lambda node: eventually((node.home / "lock").exists, "lock"),
    "the databases": lambda node: eventually((node.home / "ledger.sqlite3").exists, "ledger"),
    "the model": lambda node: eventually(lambda: list((node.home / "models").glob("*/manifest.json")), "model"),
}


@pytest.mark.parametrize(
    ("moment", "end"),
    [
        ("the first note", sigterm),
        ("the first note", ctrl_c),
        ("the lock", ctrl_c),
        ("the databases", sigterm),
        ("the model", sigterm),
        ("the model", ctrl_c),
    ],
)
def test_a_signal_while_it_starts(
    town: Town, model_files: dict[str, Path], moment: str, end: Callable[[NodeProcess], float]
) -> None:
    node = town.launch("hasty", "--model", str(model_files["matmul"]))
    assert MOMENTS[moment](node)
    end(node)
    by_signal = signal.SIGTERM if end is sigterm else signal.SIGINT
    status = node.wait()
    node.err.join()
    cleanly = 0 if end is sigterm else 130
    # Before the handler is installed, the system's or Python's own way out is as good.
    early = moment == "the first note"
    assert status in ((cleanly, -by_signal) if early else (cleanly,)), node.err.text
    assert node.out.text == "", "it was not ready first"
    assert "Traceback" not in node.err.text
    eventually(lambda: not town.processes(), f"nothing is left: {town.processes()}")
    assert node.home.exists()
    again = town.start("hasty")
    sigterm(again)
    ended_cleanly(town, again)
