"""Whole nodes (`cocoon-node up`) in several networks: jobs with a provider behind a NAT, and what becomes of one whose relay
is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from namespaces import Internet, Machine
from test_nat_start import hidden, public

from cocoon_p2p.errors import CocoonError
from cocoon_p2p.testing import models

sys.path.append(str(Path(__file__).parents[1] / "processes"))

from towns import Town, eventually

QUICK, ENDLESS = np.int64(1000), np.int64(10**12)
NODE_TOML = """[network]
listen = ["/ip4/0.0.0.0/tcp/4001"]
[execution]
threads = 1
providers = "cpu"
[log]
level = "{level}"
"""


class SplitTown(Town):
    """Each node on a machine of its own."""

    def __init__(self, root: Path, machines: dict[str, Machine]) -> None:
        super().__init__(root)
        self._machines = machines

    def _popen(self, command: Sequence[str]) -> subprocess.Popen[str]:
        name = Path(command[command.index("--home") + 1]).name
        return super()._popen(self._machines[name].enter(*command))


@pytest.fixture
def split_town(internet: Internet, tmp_path: Path) -> Iterator[SplitTown]:
    """Two public nodes, and a client and a provider of the model slow behind routers. All of them start at once, as far as
    they can: who joins must know the peer id of whom it joins by."""
    one, _ = public(internet, "one", "45.90.7.1")
    two, _ = public(internet, "two", "45.90.8.1")
    machines = {"one": one, "two": two, "client": hidden(internet, "h1"), "provider": hidden(internet, "h2")}
    with SplitTown(tmp_path / "town", machines) as town:
        for name in machines:
            town.home(name, toml=NODE_TOML)
        entries = [f"/ip4/45.90.7.1/tcp/4001/p2p/{town.start('one').peer_id}"]
        entries.append(f"/ip4/45.90.8.1/tcp/4001/p2p/{town.start('two', bootstrap=entries).peer_id}")
        provider = town.launch("provider", "--model", str(models.slow_model(tmp_path)), bootstrap=entries)
        town.launch("client", bootstrap=entries).wait_ready()
        provider.wait_ready()
        yield town


def link_to(town: SplitTown, name: str) -> dict[str, Any]:
    """The client's connection to a node."""
    peers = town.nodes["client"].api.get("/v1/peers")["peers"]
    return next(row for row in peers if row["peer_id"] == town.nodes[name].peer_id)


def first_job(town: SplitTown) -> tuple[list[str], float]:
    """What went wrong before, and how long it took until one was done."""
    began, failures = time.monotonic(), []
    while True:
        try:
            town.nodes["client"].run("slow", {"turns": QUICK})
        except CocoonError as error:
            failures.append(f"after {time.monotonic() - began:.1f} s: {error}")
            assert time.monotonic() - began < 20, failures
            time.sleep(0.5)
        else:
            return failures, time.monotonic() - began


def test_a_relay_killed_in_mid_job(split_town: SplitTown) -> None:
    """The job is lost, and said to be; the next one goes another way, and brings back what the lost one had cost."""
    town = split_town
    client, provider = town.nodes["client"], town.nodes["provider"]
    failures, took = first_job(town)
    assert took < 5, failures
    spent = client.wallet()["spent_nanogram"]
    link = link_to(town, "provider")
    assert link["relayed"], "both NATs are symmetric"
    relay = next(town.nodes[name] for name in ("one", "two") if town.nodes[name].peer_id in str(link["addresses"]))
    eventually(lambda: len(provider.status()["reachability"]["relays"]) == 2, "the provider has a place at each relay")
    job = town.background(client.run, "slow", {"turns": ENDLESS})
    eventually(lambda: provider.working_on("slow"), "the provider works")
    killed = relay.kill()
    error = job.exception(30)
    assert time.monotonic() - killed < 5
    assert isinstance(error, CocoonError)
    assert error.message == f"the connection to provider {provider.peer_id} through relay {relay.peer_id} broke"
    assert error.hint is not None
    assert error.hint.startswith("ask again: another way to it may be there; ")
    assert "count as spent until the provider says that it keeps nothing" in error.hint
    assert client.jobs()[0]["state"] == "unknown"
    failures, took = first_job(town)
    assert not failures, "the other relay is there"
    assert relay.peer_id not in str(link_to(town, "provider")["addresses"])
    eventually(lambda: client.jobs()[1]["state"] != "unknown", "the provider says what it earned")
    assert [(row["state"], row["price_nanogram"] > 0) for row in client.jobs()[:2]] == [
        ("done", True),
        ("failed", False),
    ]
    assert client.wallet()["spent_nanogram"] == 2 * spent, "two jobs were done"
