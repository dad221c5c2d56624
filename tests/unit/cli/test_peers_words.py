"""What tables and lines about peers say, and which peer an abbreviation stands for."""

from __future__ import annotations

from typing import Any, cast

import pytest

from cocoon_p2p.cli.api_client import LocalApi
from cocoon_p2p.cli.output import NO_BREAK, table
from cocoon_p2p.cli.peer_names import find_peer, provider_at
from cocoon_p2p.cli.peers import COLUMNS, _cells, short_address, via, where
from cocoon_p2p.cli.reach import (
    bootstrap_pairs,
    clock_pairs,
    counter_pairs,
    network_pairs,
    reachability_pairs,
    refused_pairs,
)
from cocoon_p2p.cli.show import audit_pairs
from cocoon_p2p.cli.words import best_address, short_peer, short_size, widest_first
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.ids import peer_id_from_public_key

ONE, TWO = (peer_id_from_public_key(bytes([n]) * 32) for n in (1, 2))
PEER: dict[str, Any] = {
    "peer_id": ONE,
    "addresses": ["/ip4/203.0.113.5/tcp/4601"],
    "listens_on": [],
    "transport": "tcp",
    "relayed": False,
    "direction": "outbound",
    "agent": "cocoon-node",
    "latency_ms": 12.34,
    "bytes_received": 1_234_567,
    "bytes_sent": 512,
    "offers": 2,
    "standing": 97,
}


def test_a_line_says_all_that_the_issue_asks_for_in_eighty_columns() -> None:
    lines = table(COLUMNS, [_cells(PEER)], width=80)
    assert lines[1].split() == [
        short_peer(ONE), "203.0.113.5:4601", "tcp", "out", "12.3", "1.2M", "512", "2", "97",
    ]  # fmt: skip
    far = PEER | {
        "addresses": [f"/ip6/2001:db8::1234:5678/tcp/46011/ws/p2p/{TWO}/p2p-circuit"],
        "latency_ms": 1234.5,
        "bytes_received": 999_499,
        "bytes_sent": 99_900_000_000,
        "relayed": True,
        "direction": "inbound",
        "offers": 64,
        "standing": 100,
    }
    assert all(len(line) <= 80 for line in table(COLUMNS, [_cells(far), _cells(PEER)], width=80))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "203.0.113.5:4601"),
        ({"direction": "inbound"}, "(inbound) 203.0.113.5"),
        ({"direction": "inbound", "listens_on": ["/ip4/10.0.0.1/tcp/9"]}, "10.0.0.1:9"),
        (
            {"direction": "inbound", "listens_on": ["/ip4/10.0.0.1/tcp/9", "/ip4/203.0.113.5/tcp/7/ws"]},
            "203.0.113.5:7",
        ),
        (
            {"direction": "inbound", "listens_on": [f"/ip4/9.9.9.9/tcp/1/p2p/{TWO}/p2p-circuit"]},
            "(inbound) 203.0.113.5",
        ),
        ({"addresses": []}, "-"),
        ({"addresses": ["/dns4/node.example/tcp/1"]}, "node.example:1"),
        ({"addresses": ["/ip6/::1/tcp/1"]}, "[::1]:1"),
    ],
)
def test_where_a_peer_is(change: dict[str, Any], expected: str) -> None:
    assert where(PEER | change) == expected


def test_relayed_peers_show_their_relay() -> None:
    address = f"/ip4/9.9.9.9/tcp/1/p2p/{TWO}/p2p-circuit"
    assert short_address(address) == f"relay {short_peer(TWO)} at 9.9.9.9:1"
    assert via(PEER | {"relayed": True, "direction": "inbound"}) == "relay in"
    assert via(PEER | {"transport": "websocket"}) == "ws out"


@pytest.mark.parametrize(
    ("count", "expected"),
    [(None, "-"), (0, "0"), (999, "999"), (1000, "1.0k"), (9_949, "9.9k"), (9_960, "10k"), (999_499, "999k"),
     (999_600, "1.0M"), (5_400_000_000, "5.4G"), (99_900_000_000, "100G")],
)  # fmt: skip
def test_sizes_in_five_characters(count: int | None, expected: str) -> None:
    assert short_size(count) == expected
    assert len(short_size(count)) <= 5


# --- abbreviations ---


@pytest.mark.parametrize(
    "text", [ONE, f" {ONE}", short_peer(ONE), short_peer(ONE).replace("…", "..."), ONE[-6:], ONE[:20], f"…{ONE[-3:]}"]
)
def test_a_peer_by_any_of_its_names(text: str) -> None:
    assert find_peer(text, [ONE, TWO]) == ONE


def test_a_full_id_need_not_be_known() -> None:
    assert find_peer(TWO, []) == TWO


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("12D3KooW", "may be any of 2 peers", f"…{ONE[-8:]}"),
        ("…", "no peer '…' is known here", "`cocoon-node peers`"),
        ("", "no peer '' is known here", "`cocoon-node peers`"),
        (ONE[-6:-1] + "0", "is known here", f"did you mean {short_peer(ONE)}?"),
        ("12D3…" + ONE[-6:-1] + "0", "is known here", f"did you mean {short_peer(ONE)}?"),
        ("qqqqqq", "is known here", "`cocoon-node peers`"),
    ],
)
def test_what_stands_for_nobody_or_for_several(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        find_peer(text, [ONE, TWO, ONE])
    assert hint in str(caught.value.hint)


def test_a_provider_by_the_end_of_its_id() -> None:
    class Api:
        asked = 0

        def get(self, address: str, *, model: str) -> dict[str, Any]:
            assert (address, model) == ("/v1/offers", "m")
            self.asked += 1
            return {"offers": [{"peer_id": ONE}, {"peer_id": TWO}, {"peer_id": ONE}]}

    api = Api()
    stand_in = cast(LocalApi, api)
    assert provider_at(stand_in, None, "m") is None
    assert provider_at(stand_in, f" {TWO}", "m") == TWO
    assert api.asked == 0
    assert provider_at(stand_in, short_peer(ONE), "m") == ONE
    with pytest.raises(ConfigError, match="no peer 'qqqqqq'") as caught:
        provider_at(stand_in, "qqqqqq", "m")
    assert caught.value.hint == "cocoon-node offers m lists those that offer it; a full id works, too"


# --- lines of `status` ---


def test_repeated_jobs_are_told_of_where_they_are_configured() -> None:
    assert audit_pairs({}) == audit_pairs({"audits": None}) == []
    none, one = {"percent": 5.0, "repeated": 0, "differed": 0}, {"percent": 2.5, "repeated": 12, "differed": 1}
    assert audit_pairs({"audits": none}) == [("audits", "0 jobs repeated by a second provider; 5 % of ours are")]
    assert audit_pairs({"audits": one}) == [
        (
            "audits",
            "12 jobs repeated by a second provider, 1 with another answer (cocoon-node evidence list); 2.5 % of ours are",
        )
    ]


def test_a_wrong_clock_is_said_and_a_right_one_is_not() -> None:
    assert clock_pairs({"clock_advice": "This machine's clock seems to be 3600 s fast"}) == [
        ("clock", "This machine's clock seems to be 3600 s fast")
    ]
    assert clock_pairs({"clock_advice": None}) == clock_pairs({}) == []


def test_bootstrap_peers_that_cannot_be_reached_are_said() -> None:
    good = {"peer_id": ONE, "connected": True, "error": None, "tried_ago_s": None, "again_in_s": None}
    address = "/ip4/9.9.9.9/tcp/1"
    bad = {"connected": False, "error": f"{address}: Connection refused", "tried_ago_s": 12.7, "again_in_s": 19.2}
    stale = {"connected": False, "error": f"{TWO} is banned", "tried_ago_s": 120.0, "again_in_s": None}
    dialled = {"connected": False, "error": None, "tried_ago_s": None, "again_in_s": None}
    pairs = bootstrap_pairs({"bootstrap": [good, bad, stale, dialled]})
    assert [(name, line.replace(NO_BREAK, " ")) for name, line in pairs] == [
        ("bootstrap", f"{address}: Connection refused; tried 12 s ago, again in 20 s"),
        ("", f"{short_peer(TWO)} is banned; tried 2 min ago"),
    ]
    assert bootstrap_pairs({}) == []


def test_a_node_that_listens_on_loopback_only_says_so() -> None:
    found = {"state": "unknown", "reason": "no peer is connected", "observed": ["127.0.0.1"]}
    here = {"reachability": found, "addresses": [f"/ip4/127.0.0.1/tcp/1/p2p/{ONE}", f"/ip6/::1/tcp/1/p2p/{ONE}"]}
    assert reachability_pairs(here) == [
        ("reachable", "from this machine only: it listens nowhere else"),
        ("seen as", "127.0.0.1"),
    ]
    away = here | {"addresses": [*here["addresses"], f"/ip4/10.0.0.1/tcp/1/p2p/{ONE}"]}  # type: ignore[misc]
    assert reachability_pairs(away)[0] == ("reachable", "not known yet: no peer is connected")


def test_addresses_are_shown_from_the_widest_to_this_machines_own() -> None:
    loopback, local, public, relayed = (
        f"/ip4/127.0.0.1/tcp/1/p2p/{ONE}",
        f"/ip4/10.0.0.1/tcp/1/p2p/{ONE}",
        f"/ip4/9.9.9.9/tcp/1/p2p/{ONE}",
        f"/ip4/9.9.9.9/tcp/2/p2p/{TWO}/p2p-circuit/p2p/{ONE}",
    )
    assert widest_first([loopback, relayed, local, public]) == [public, local, relayed, loopback]
    assert best_address([loopback, local]) == local
    assert best_address([loopback, "/of/a/newer/version"]) == "/of/a/newer/version"
    assert best_address([]) is None


def test_reachability_says_the_state_the_reason_and_what_to_do() -> None:
    found = {
        "state": "relayed",
        "reason": f"3 peers could not dial us; relay {ONE} takes connections for us",
        "advice": "forward TCP port 4601",
        "observed": ["/ip4/203.0.113.5/tcp/4601", "/ip4/203.0.113.6/tcp/4601"],
        "mapped": ["/ip4/203.0.113.5/tcp/7"],
        "relays": [ONE, TWO],
    }
    assert reachability_pairs({"reachability": found}) == [
        ("reachable", f"by a relay: 3 peers could not dial us; relay {short_peer(ONE)} takes connections for us"),
        ("", "for more: forward TCP port 4601"),
        ("seen as", "/ip4/203.0.113.5/tcp/4601"),
        ("", "/ip4/203.0.113.6/tcp/4601"),
        ("forwarded", "/ip4/203.0.113.5/tcp/7"),
        ("relays", f"{short_peer(ONE)}, {short_peer(TWO)}"),
    ]
    assert reachability_pairs({"reachability": {"state": "reachable", "reason": "a", "advice": None}}) == [
        ("reachable", "yes: a")
    ]
    assert reachability_pairs({}) == []


def test_the_private_network_is_named() -> None:
    network = {"private": True, "name": None, "fingerprint": "ab12"}
    assert network_pairs({"network": network}) == [("network", "private network fingerprint ab12")]
    assert network_pairs({"network": {"private": False}}) == network_pairs({}) == []


def test_what_was_refused_is_one_line() -> None:
    counters = {
        "inbound_refused_subnet_full": 1200,
        "inbound_refused_rate": 3,
        "connection_refused_banned": 1,
        "handshake_failed": 2,
        "gossip_rejected": 7,
        "peer_flood": 4,
        "connections_trimmed": 9,
        "upnp_failed": 1,
        "dht_record_invalid": 0,
    }
    ((name, line),) = refused_pairs({"network_counters": counters})
    assert name == "refused"
    assert line == (
        "1,204 connections (mostly too many from one subnet); 2 handshakes; 7 gossip messages (rejected); "
        "4 faults of peers (flood) (status --verbose)"
    )
    one = {"network_counters": {"handshake_failed": 1, "peer_flood": 1}}
    assert refused_pairs(one) == [("refused", "1 handshake; 1 fault of a peer (flood) (status --verbose)")]
    assert refused_pairs({"network_counters": {"connections_trimmed": 9}}) == refused_pairs({}) == []
    assert counter_pairs({"network_counters": {"b": 1000, "a": 1}}) == [("counters", "a 1"), ("", "b 1,000")]
