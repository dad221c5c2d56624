"""kill -9 at many moments of a stream of jobs: afterwards no receipt and no voucher is missing on either side, the books
of both agree, and work and payment go on."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from towns import NODE_TOML, NodeProcess, Town, eventually

from cocoon_p2p.errors import CocoonError
from cocoon_p2p.home import Home
from cocoon_p2p.store import open_store

pytestmark = [pytest.mark.processes, pytest.mark.slow]

PRICE = 500_000
"""So that a channel of 0.5 GRAM is used up, and topped up, several times in a test."""
TOML = f"{NODE_TOML}[provider]\nprice_base = {PRICE}\nprice_per_item = 0\n"
PROVIDER_KILLS, CLIENT_KILLS = 8, 6
X = np.ones((1, 4), np.float32)

Result = dict[str, Any]


class Stream:
    """Jobs for one provider, one after the other in each of several threads, whenever it is `up`."""

    def __init__(self, town: Town, provider: str) -> None:
        self.town = town
        self.peer_id = town.nodes[provider].peer_id
        self.up = threading.Event()
        self.stopped = False
        self.results: list[Result] = []
        self.errors: list[CocoonError] = []

    def run(self) -> None:
        client = self.town.nodes["client"]
        while self.up.wait() and not self.stopped:
            try:
                result, outputs = client.run("matmul", {"x": X}, provider=self.peer_id, timeout_s=10)
            except CocoonError as error:
                self.errors.append(error)
                if error.code == "NODE_GONE" or not client.running:
                    return
            else:
                assert outputs["y"].tolist() == [[18, 22, 26]]
                self.results.append(result)

    @contextmanager
    def flowing(self, threads: int) -> Iterator[Stream]:
        futures = [self.town.background(self.run) for _ in range(threads)]
        self.up.set()
        try:
            yield self
        finally:
            self.stopped = True
            self.up.set()
            for future in futures:
                future.result(30)


@dataclass(frozen=True, slots=True)
class Kept:
    """A receipt on disk."""

    price: int
    body: str
    provider_signature: str
    client_signature: str


def receipts_of(node: NodeProcess) -> dict[str, Kept]:
    """Job id → receipt, all that are on its disk; the API gives out 1000 at most."""
    file = Home(node.home).state_file
    with open_store(file, read_only=True):  # which checks the whole file
        pass
    with closing(sqlite3.connect(file.as_uri() + "?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT job_id, price, body, provider_signature, client_signature FROM receipts")
        return {row[0].hex(): Kept(row[1], *(bytes(column).hex() for column in row[2:])) for row in rows}


def check_receipts(node: NodeProcess, results: list[Result]) -> None:
    """Everything that the client was given a receipt for is in the books of this node, byte for byte."""
    kept = receipts_of(node)
    for result in results:
        receipt = result["receipt"]
        if receipt is not None:
            assert result["job_id"] in kept, f"the receipt of job {result['job_id']} is lost"
            ours = kept[result["job_id"]]
            assert (ours.body, ours.provider_signature) == (receipt["body"], receipt["provider_signature"])


def check_no_job_runs(node: NodeProcess) -> None:
    assert {row["state"] for row in node.jobs()} <= {"done", "failed", "unknown"}


def channel_with(node: NodeProcess, peer_id: str) -> dict[str, Any]:
    (channel,) = [row for row in node.wallet()["channels"] if row["peer_id"] == peer_id]
    return channel


def check_books(client: NodeProcess, provider: NodeProcess) -> None:
    """Of a client and a provider between whom nothing is in progress."""
    for node, other in ((client, provider), (provider, client)):
        eventually(
            lambda n=node, o=other: channel_with(n, o.peer_id)["reserved_nanogram"] == 0, "nothing is reserved", 5.0
        )
    ours, theirs = channel_with(client, provider.peer_id), channel_with(provider, client.peer_id)
    kept = receipts_of(provider).values()
    signed_by_both = sum(receipt.price for receipt in kept if receipt.client_signature)
    assert theirs["earned_nanogram"] == sum(receipt.price for receipt in kept), "earned is what the receipts say"
    assert theirs["earned_nanogram"] >= signed_by_both > 0
    assert theirs["cumulative_nanogram"] >= theirs["earned_nanogram"], "every nanogram earned is covered by a voucher"
    assert ours["cumulative_nanogram"] >= theirs["cumulative_nanogram"], "the payer knows every voucher that it signed"
    assert ours["deposit_nanogram"] >= ours["cumulative_nanogram"]
    check_no_job_runs(client)
    check_no_job_runs(provider)


def test_kill_a_provider_at_many_moments(tmp_path: Path, model_files: dict[str, Path]) -> None:
    rng = random.Random(20)
    with Town(tmp_path) as town:
        for name in ("one", "two"):
            town.home(name, toml=TOML)
        join = [town.start("bootstrap").address]
        serve = ["--model", str(model_files["matmul"])]
        started = [town.launch(name, *serve, bootstrap=join) for name in ("one", "two")]
        started.append(town.launch("client", bootstrap=join))
        client = [node.wait_ready() for node in started][-1]
        eventually(lambda: len(client.offers("matmul")) == 2, "both are known")
        streams = {name: Stream(town, name) for name in ("one", "two")}
        with streams["one"].flowing(2), streams["two"].flowing(2):
            for turn in range(PROVIDER_KILLS):
                name = ("one", "two")[turn % 2]
                stream, before = streams[name], len(streams[name].results)
                eventually(lambda s=stream, b=before: len(s.results) > b, "jobs flow")
                time.sleep(rng.uniform(0, 0.02))  # the moment of the kill, not a wait
                town.nodes[name].kill()
                for each in streams.values():  # with the machine to itself it starts in a third of the time
                    each.up.clear()
                provider = town.start(name, *serve, bootstrap=join)
                check_no_job_runs(provider)
                check_receipts(provider, list(stream.results))
                for each in streams.values():
                    each.up.set()
        for name, stream in streams.items():
            provider = town.nodes[name]
            assert stream.errors, "a kill hit no job at all"
            result, _ = client.run("matmul", {"x": X}, provider=provider.peer_id)  # which also brings late receipts
            assert result["receipt"]["client_signature"]
            assert receipts_of(provider)[result["job_id"]].price == PRICE  # what others earned it may have given back
            check_books(client, provider)
            check_receipts(provider, stream.results)
            check_receipts(client, stream.results)
        spent, earned = client.wallet()["spent_nanogram"], [town.nodes[n].wallet()["earned_nanogram"] for n in streams]
        assert spent >= sum(earned)


def test_kill_a_client_at_many_moments(tmp_path: Path, model_files: dict[str, Path]) -> None:
    rng = random.Random(21)
    with Town(tmp_path) as town:
        town.home("provider", toml=TOML)
        provider = town.start("provider", "--model", str(model_files["matmul"]))
        results: list[Result] = []
        for _ in range(CLIENT_KILLS):
            client = town.start("client", bootstrap=[provider.address])
            check_no_job_runs(client)
            check_receipts(client, results)
            stream = Stream(town, "provider")
            with stream.flowing(3):
                eventually(lambda s=stream: s.results, "jobs flow")
                time.sleep(rng.uniform(0, 0.1))  # the moment of the kill, not a wait
                client.kill()
            assert {error.code for error in stream.errors} == {"NODE_GONE"}
            results += stream.results
        client = town.start("client", bootstrap=[provider.address])
        client.run("matmul", {"x": X}, provider=provider.peer_id)
        check_books(client, provider)
        check_receipts(client, results)
        check_receipts(provider, results)
        assert client.wallet()["spent_nanogram"] >= provider.wallet()["earned_nanogram"]
