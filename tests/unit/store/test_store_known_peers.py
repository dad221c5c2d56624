"""The table of peers that were reached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cocoon_p2p.errors import StoreError
from cocoon_p2p.ids import PeerId, peer_id_from_public_key
from cocoon_p2p.store.database import Database, open_database
from cocoon_p2p.store.known_peers import KnownPeer, KnownPeers
from cocoon_p2p.store.schema import STORE_SCHEMA

PEERS = [peer_id_from_public_key(bytes([n]) * 32) for n in range(20)]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path / "state.sqlite3", STORE_SCHEMA, failure=StoreError) as opened:
        yield opened


def met(peer: PeerId, at_ms: int, *ports: int) -> KnownPeer:
    return KnownPeer(peer, tuple(f"/ip4/1.2.3.4/tcp/{port}" for port in ports or (1,)), at_ms)


def test_the_latest_come_first_and_are_updated(database: Database) -> None:
    table = KnownPeers(database)
    table.save("", [met(PEERS[0], 10), met(PEERS[1], 20)])
    table.save("", [met(PEERS[0], 30, 7, 8)])
    assert table.of_network("") == [met(PEERS[0], 30, 7, 8), met(PEERS[1], 20)]
    assert table.of_network("", since_ms=21) == [met(PEERS[0], 30, 7, 8)]
    table.forget("", PEERS[0])
    assert table.of_network("") == [met(PEERS[1], 20)]


def test_networks_are_never_mixed(database: Database) -> None:
    table = KnownPeers(database)
    table.save("", [met(PEERS[0], 10)])
    table.save("ab", [met(PEERS[1], 10), met(PEERS[0], 9, 5)])
    assert table.of_network("") == [met(PEERS[0], 10)]
    assert table.of_network("ab") == [met(PEERS[1], 10), met(PEERS[0], 9, 5)]
    assert table.of_network("cd") == []


def test_it_is_bounded(database: Database) -> None:
    table = KnownPeers(database, kept_max=3, networks_max=2)
    table.save("", [met(peer, n) for n, peer in enumerate(PEERS[:10])])
    assert [each.peer for each in table.of_network("")] == PEERS[9:6:-1]
    table.save("ab", [met(PEERS[0], 100)])
    table.save("cd", [met(PEERS[0], 101)])
    assert table.of_network("") == [], "of three networks the one used longest ago"
    assert len(table.of_network("ab")) == len(table.of_network("cd")) == 1
    table.save("ab", [met(PEERS[1], 102, *range(1, 40))])
    assert len(table.of_network("ab")[0].addresses) == 16
