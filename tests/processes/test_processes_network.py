"""Invites, pings, bans, private networks and the way back into a network, with real processes on loopback."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from towns import Town, eventually, explained

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Two nodes, one in the network of the other by its invite."""
    with Town(tmp_path_factory.mktemp("pair")) as town:
        host = town.start("host")
        town.home("guest")
        invite = town.cli("invite", "--json", home=host.home).json["invite"]
        joined = town.cli("join", invite, home=town.home("guest"))
        assert joined.status == 0, joined.err
        town.start("guest")
        yield town


def peers_of(town: Town, name: str) -> dict[str, dict[str, object]]:
    rows = town.cli("peers", "--json", home=town.nodes[name].home).json["peers"]
    return {row["peer_id"]: row for row in rows}


def test_an_invite_brings_a_machine_in(pair: Town) -> None:
    host, guest = pair.nodes["host"], pair.nodes["guest"]
    row = peers_of(pair, "guest")[host.peer_id]
    assert (row["direction"], row["transport"], row["relayed"]) == ("outbound", "tcp", False)
    seen = eventually(
        lambda: [r for r in pair.nodes["host"].api.get("/v1/peers")["peers"] if r["listens_on"]], "identified"
    )
    assert f"{seen[0]['listens_on'][0]}/p2p/{guest.peer_id}" == guest.address
    shown = pair.cli("peers", home=host.home)
    assert guest.address.split("/")[4] in shown.out, "where it listens, not the port that it dials from"
    lines = pair.cli("invite", "--qr", home=host.home).out.splitlines()
    assert lines[0].startswith("cocoon1")
    assert len(lines) > 15


def test_an_invite_for_a_node_that_runs(pair: Town, tmp_path: Path) -> None:
    third = pair.start("third")
    invite = pair.cli("invite", "--hours", "1", "--json", home=pair.nodes["host"].home).json
    assert invite["expires_at_ms"]
    done = pair.cli("join", invite["invite"], home=third.home)
    assert (done.status, "connected to" in done.err) == (0, True), done.err
    assert pair.nodes["host"].peer_id in peers_of(pair, "third")
    assert pair.nodes["host"].address in (third.home / "node.toml").read_text()
    own = pair.cli("invite", "--json", home=third.home).json["invite"]
    assert "this node's own invite" in explained(pair.cli("join", own, home=third.home), 2)


def test_ping(pair: Town) -> None:
    host, guest = pair.nodes["host"], pair.nodes["guest"]
    done = pair.cli("ping", guest.peer_id[-6:], "--count", "2", "--json", home=host.home).json
    assert (done["peer_id"], done["sent"], done["answered"]) == (guest.peer_id, 2, 2)
    assert 0 < done["min_ms"] <= done["mean_ms"] <= done["max_ms"] < 1000
    shown = pair.cli("ping", guest.peer_id, "--count", "1", home=host.home)
    assert "1 sent, 1 answered, 0 % lost; min/mean/max" in shown.out
    nobody = "12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N"
    assert "no address of" in explained(pair.cli("ping", nobody, home=host.home), 1)  # at once, not five times
    shown = pair.cli("peers", "connect", "127.0.0.1:4701", home=host.home)
    assert "/ip4/127.0.0.1/tcp/4701/p2p/PEER_ID" in explained(shown, 2)
    assert "is known here" in explained(pair.cli("ping", "zzzzzz", home=host.home), 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_ping_with_its_summary(pair: Town, number: signal.Signals) -> None:
    host, guest = pair.nodes["host"], pair.nodes["guest"]
    running = pair.cli_started("ping", guest.peer_id, "--count", "0", home=host.home)
    assert running.process.stdout is not None
    assert running.process.stdout.readline().startswith("1: ")
    running.process.send_signal(number)
    ended = running.wait()
    assert ended.status == 0
    assert "answered, 0 % lost" in ended.out
    assert "Traceback" not in ended.err


@pytest.mark.slow
def test_a_banned_peer_stays_out_also_after_a_restart(tmp_path: Path) -> None:
    with Town(tmp_path) as town:
        host = town.start("host")
        guest = town.start("guest", bootstrap=[host.address])
        banned = town.cli("peers", "ban", guest.peer_id[-6:], "--for", "1h", "--json", home=host.home).json
        assert banned["peer_id"] == guest.peer_id
        eventually(lambda: guest.peer_id not in peers_of(town, "host"), "cut off")
        host.send(signal.SIGTERM)
        assert host.wait() == 0
        host = town.start("host")
        listed = town.cli("peers", "--banned", "--json", home=host.home).json["banned"]
        assert [row["peer_id"] for row in listed] == [guest.peer_id]
        assert 3000 < listed[0]["left_s"] <= 3600
        assert listed[0]["addresses"] == [guest.address.partition("/p2p/")[0]]
        refused = town.cli("peers", "connect", guest.address, home=host.home)
        assert "is banned here" in explained(refused, 1)
        assert f"unban {guest.peer_id}" in refused.err
        assert town.cli("peers", "unban", guest.peer_id[-6:], home=host.home).status == 0
        row = town.cli("peers", "connect", guest.address, "--json", home=host.home).json
        assert row["peer_id"] == guest.peer_id
        assert "nobody is banned" in town.cli("peers", "--banned", home=host.home).err


@pytest.mark.slow
def test_a_node_finds_its_network_again_when_the_bootstrap_node_is_gone(tmp_path: Path) -> None:
    with Town(tmp_path) as town:
        bootstrap = town.start("bootstrap")
        invite = town.cli("invite", "--json", home=bootstrap.home).json["invite"]
        assert town.cli("join", invite, home=town.home("one")).status == 0
        one = town.start("one")
        other = town.start("other", bootstrap=[bootstrap.address])
        assert town.cli("peers", "connect", other.address, home=one.home).status == 0
        one.send(signal.SIGTERM)
        assert one.wait() == 0
        bootstrap.kill()
        town.launch("one")
        one = town.nodes["one"].wait_ready()
        eventually(lambda: other.peer_id in peers_of(town, "one"), "in by a peer known from before")


@pytest.mark.slow
def test_strangers_get_nothing_of_a_private_network(tmp_path: Path) -> None:
    with Town(tmp_path) as town:
        made = town.cli("network", "create", "--name", "office", "--json", home=town.home("host")).json
        host = town.start("host")
        assert host.status()["network"] == {"private": True, "name": "office", "fingerprint": made["fingerprint"]}
        with_key = town.cli("invite", "--with-network-key", "--json", home=host.home).json
        without = town.cli("invite", "--json", home=host.home).json
        assert (with_key["has_network_key"], without["has_network_key"]) == (True, False)

        assert town.cli("join", with_key["invite"], home=town.home("friend")).status == 0
        friend = town.start("friend")
        assert host.peer_id in peers_of(town, "friend")

        stranger = town.start("stranger")
        refused = explained(town.cli("join", without["invite"], home=stranger.home), 2)
        assert "does not hold its key" in refused
        failed = town.cli("peers", "connect", host.address, home=stranger.home)
        assert failed.status == 1, failed.out
        assert peers_of(town, "stranger") == {}
        assert stranger.peer_id not in peers_of(town, "host")

        key = (host.home / "network.key").read_text().split()[-1]
        town.nodes["friend"].send(signal.SIGTERM)
        assert friend.wait() == 0
        assert all(key not in text for text in town.texts())
