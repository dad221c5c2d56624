"""Whether others can dial us: what follows from what peers say. No network."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import VOTE_LIFETIME_S, VOTES_MAX
from cocoon_p2p.net.addresses import parse_address
from cocoon_p2p.net.reach.reachability import (
    Scope,
    Situation,
    Vote,
    Votes,
    candidates,
    confirmed,
    judge,
    wants_relay,
    widest,
)

OWN = parse_address("/ip4/192.168.1.5/tcp/4001")
OUTSIDE = parse_address("/ip4/5.6.7.8/tcp/4001")
RELAY = PeerId("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")
HOME = Situation(
    listening=(OWN,), scope="public", askable=frozenset({"9.9.9.0/24", "1.1.1.0/24"}), observed_hosts=("5.6.7.8",)
)
"""A laptop behind a home router, with peers on the internet."""


def cast(*reached: bool, scope: Scope = "public") -> Votes:
    votes = Votes()
    for number, each in enumerate(reached):
        votes.add(scope, Vote(f"voter {number}", each, OUTSIDE, float(number)))
    return votes


def test_at_the_start_nobody_has_told() -> None:
    state = judge(Situation(listening=(OWN,)), Votes(), 0.0)
    assert (state.state, state.reason, state.advice) == ("unknown", "no peer is connected", "")
    nobody = judge(replace(HOME, askable=frozenset()), Votes(), 0.0)
    assert nobody.state == "unknown"
    assert nobody.reason == "none of our peers can try to dial us"
    assert judge(HOME, Votes(), 0.0).reason == "peers are being asked"
    here = Situation(listening=(parse_address("/ip4/127.0.0.1/tcp/4001"),))
    assert judge(here, Votes(), 0.0).reason == "this node listens on this machine only"


def test_who_seems_private_does_not_wait_for_a_relay() -> None:
    """Dialling back in vain takes peers eight seconds each."""
    private = (parse_address("/ip4/127.0.0.1/tcp/4001"), OWN)
    public = (parse_address("/ip4/5.6.7.8/tcp/4001"), OWN)

    def wants(situation: Situation, *votes: bool) -> bool:
        cast_votes = cast(*votes)
        return wants_relay(situation, judge(situation, cast_votes, 2.0))

    assert wants(replace(HOME, listening=private))
    assert not wants(replace(HOME, listening=private, scope="private"))  # on a LAN nobody is in between
    assert not wants(replace(HOME, listening=private, by_operator=True))
    assert not wants(replace(HOME, listening=public))
    assert not wants(replace(HOME, listening=()))
    assert not wants(HOME, True, True)
    assert wants(HOME, False, False)
    assert wants(replace(HOME, listening=public, by_operator=True), False, False)


def test_who_does_not_listen_is_private() -> None:
    state = judge(Situation(listening=()), cast(True, True), 0.0)
    assert (state.state, state.reason) == ("private", "this node listens on no address; it only dials")


def test_two_subnets_are_believed_and_one_is_not() -> None:
    assert judge(HOME, cast(True), 1.0).state == "unknown"
    state = judge(HOME, cast(True, True), 1.0)
    assert state.state == "reachable"
    assert state.reason == "2 peers on the internet dialled us at /ip4/5.6.7.8/tcp/4001"
    assert state.advice == ""


def test_one_is_enough_where_nobody_else_could_be_asked() -> None:
    alone = replace(HOME, askable=frozenset({"voter 0"}))
    assert judge(alone, cast(True), 1.0).state == "reachable"
    assert judge(alone, cast(False), 1.0).state == "private"


def test_the_majority_has_it_and_a_tie_changes_nothing() -> None:
    assert judge(HOME, cast(True, False, False), 3.0).state == "private"
    votes = cast(True, True)
    assert judge(HOME, votes, 3.0).state == "reachable"
    votes.add("public", Vote("a", False, OUTSIDE, 3.0))
    votes.add("public", Vote("b", False, OUTSIDE, 3.0))
    assert judge(HOME, votes, 3.0).state == "reachable"
    votes.add("public", Vote("c", False, OUTSIDE, 3.0))
    state = judge(HOME, votes, 3.0)
    assert state.state == "private"
    assert state.reason.startswith("3 of 5 peers on the internet could not dial us at /ip4/5.6.7.8/tcp/4001")


def test_a_tie_from_the_start_stays_unknown() -> None:
    state = judge(HOME, cast(True, False), 3.0)
    assert (state.state, state.reason) == (
        "unknown",
        "1 of 2 peers on the internet dialled us at /ip4/5.6.7.8/tcp/4001, too few to be sure",
    )


def test_the_widest_scope_decides() -> None:
    """That the LAN reaches us says nothing of the internet; without the internet the LAN is all there is."""
    votes = cast(True, True, scope="private")
    assert judge(HOME, votes, 3.0).state == "unknown"
    state = judge(replace(HOME, scope="private"), votes, 3.0)
    assert (state.state, state.reason.partition(" dialled")[0]) == ("reachable", "2 peers on the local network")
    assert widest(["loopback", "public", "private"]) == "public"
    assert widest([]) is None


def test_relayed_names_the_relay() -> None:
    state = judge(replace(HOME, relays=(RELAY,)), cast(False, False), 3.0)
    assert state.state == "relayed"
    assert state.reason.endswith(f"; relay {RELAY} takes connections for us")
    assert state.relays == (RELAY,)
    assert judge(HOME, cast(False, False), 3.0).reason.endswith(", and no relay takes connections for us")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ("forward TCP port 4001 to this machine in the router", "or set [network] upnp = true")),
        ({"upnp": "UPnP: no router answers"}, ("or turn on UPnP there (UPnP: no router answers)",)),
        ({"upnp": "UPnP: the router forwards port 4001", "mapped": (OUTSIDE,)}, ("but nobody gets through",)),
        ({"mapping": "endpoint-dependent"}, ("hole punching rarely works",)),
        ({"by_operator": True}, ("check that announce_addresses leads to TCP port 4001",)),
        ({"listening": (OUTSIDE,)}, ("through the firewall of this machine or of its provider",)),
        ({"scope": "private"}, ("let TCP port 4001 through the firewall of this machine",)),
    ],
)
def test_advice_fits(change: dict[str, object], words: tuple[str, ...]) -> None:
    situation = replace(HOME, **change)  # type: ignore[arg-type]
    votes = Votes()
    for scope in ("private", "public"):
        for voter in "ab":
            votes.add(scope, Vote(voter, False, OUTSIDE, 0.0))  # type: ignore[arg-type]
    advice = judge(situation, votes, 1.0).advice
    assert all(word in advice for word in words), advice
    assert advice.endswith("see nodes/REACHABILITY.md")


def test_votes_expire_and_are_bounded() -> None:
    votes = cast(*[True] * (VOTES_MAX + 5))
    assert len(votes.current("public", 20.0)) == VOTES_MAX
    assert judge(HOME, votes, VOTE_LIFETIME_S + 100.0).state == "unknown"
    assert votes.current("public", VOTE_LIFETIME_S + 100.0) == []


def test_a_new_address_of_the_router_begins_anew() -> None:
    votes = cast(True, True)
    assert judge(HOME, votes, 3.0).state == "reachable"
    votes.clear("public")
    assert judge(HOME, votes, 3.0).state == "unknown"


def test_a_peer_is_asked_only_about_the_host_that_it_sees() -> None:
    mapped = parse_address("/ip4/5.6.7.8/tcp/20000")
    websocket = parse_address("/ip4/192.168.1.5/tcp/4002/ws")
    situation = replace(HOME, listening=(OWN, websocket), mapped=(mapped,))
    seen = parse_address("/ip4/5.6.7.8/tcp/53111")
    assert list(map(str, candidates(situation, seen))) == [
        "/ip4/5.6.7.8/tcp/20000",
        "/ip4/5.6.7.8/tcp/4001",
        "/ip4/5.6.7.8/tcp/4002/ws",
    ]
    on_lan = parse_address("/ip4/192.168.1.5/tcp/53111")
    assert candidates(situation, on_lan) == (OWN, websocket)
    assert candidates(situation, None) == (mapped, OWN, websocket)
    behind_a_name = replace(situation, announced=("/dns4/node.example/tcp/443/ws",), mapped=())
    assert str(candidates(behind_a_name, seen)[0]) == "/ip4/5.6.7.8/tcp/443/ws"


def test_a_liar_does_not_get_another_ones_address_announced() -> None:
    victim = parse_address("/ip4/66.6.6.6/tcp/4001")
    votes = cast(True, True)
    votes.add("public", Vote("liar", True, victim, 2.0))
    assert confirmed(HOME, votes, 3.0) == (OUTSIDE,)
    assert confirmed(replace(HOME, observed_hosts=()), votes, 3.0) == ()
    assert confirmed(HOME, cast(False, False), 3.0) == ()


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.floats(0, 4000)), max_size=30))
def test_whatever_is_voted_there_is_a_reason(cast_votes: list[tuple[int, bool, float]]) -> None:
    votes = Votes()
    for voter, reached, now in sorted(cast_votes, key=lambda vote: vote[2]):
        votes.add("public", Vote(str(voter), reached, None, now))
        state = judge(HOME, votes, now)
        current = votes.current("public", now)
        yes = sum(vote.reached for vote in current)
        if state.state == "unknown":
            assert max(yes, len(current) - yes) < 2 or 2 * yes == len(current)
        assert state.reason
