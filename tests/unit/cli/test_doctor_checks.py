"""What `cocoon-node doctor` says to what it may see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cocoon_p2p.cli.doctor import lines_of
from cocoon_p2p.cli.doctor_checks import (
    YOUNG_S,
    Check,
    HomeFacts,
    judge_addresses,
    judge_clock,
    judge_connections,
    judge_directory,
    judge_heard,
    judge_home,
    judge_left_out,
    judge_reachability,
    judge_without_models,
    totals,
)
from cocoon_p2p.cli.doctor_rounds import look_at_home
from cocoon_p2p.cli.doctor_stranger import stranger_config, ways_in
from cocoon_p2p.home import Home
from cocoon_p2p.limits import DOCTOR_DISK_FULL_BYTES, DOCTOR_DISK_LOW_BYTES
from cocoon_p2p.node_doctor import untold_rules
from cocoon_p2p.policy.idle import IdleRules, MachineFacts

PEER = "12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N"
OTHER = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
PLENTY = 10**11
AT = " --home /n"
CLOCK = {"compared": 3, "differ": 0, "own_error_s": None, "advice": None}


def test_a_check_stands_on_lines_that_fit_and_its_advice_on_one() -> None:
    check = Check("home", "warn", "the disk is nearly full \x1b[2J " * 5, "make room: cocoon-node models list " * 4)
    lines = lines_of(check, 60)
    assert lines[0].startswith("warn  home: the disk")
    assert all(len(line) <= 60 for line in lines[:-1])
    assert lines[-1].startswith("      do: make room: ")
    assert "\x1b" not in "".join(lines)
    painted = lines_of(check, 60, paint=lambda text, style: f"<{style}>{text}</>")
    assert painted[0].startswith("<yellow>warn</>  home: ")


def test_totals() -> None:
    checks = [Check("a", "pass", ""), Check("b", "warn", ""), Check("c", "skip", ""), Check("d", "fail", "")]
    assert totals(checks) == "4 checks: 1 passed, 1 warned, 1 failed, 1 did not apply"


@pytest.mark.parametrize(
    ("facts", "state", "words"),
    [
        (HomeFacts("/n", (), PLENTY), "pass", "100.0 GB free"),
        (HomeFacts("/n", (), DOCTOR_DISK_LOW_BYTES - 1), "warn", "nearly full"),
        (HomeFacts("/n", (), DOCTOR_DISK_FULL_BYTES - 1), "fail", "is full"),
        (HomeFacts("/n", ("/n/identity.pem",), PLENTY), "fail", "can read /n/identity.pem"),
        (HomeFacts("/n", (), PLENTY, "disk I/O error"), "fail", "disk I/O error"),
    ],
)
def test_the_home(facts: HomeFacts, state: str, words: str) -> None:
    check = judge_home(facts)
    assert (check.state, words in check.seen) == (state, True), check
    assert bool(check.advice) == (state != "pass")


def test_keys_that_others_can_read_are_seen(tmp_path: Path) -> None:
    home = Home(tmp_path / "n")
    home.init()
    assert look_at_home(home).open_to_others == ()
    home.channel_file.chmod(0o640)
    facts = look_at_home(home)
    assert facts.open_to_others == (str(home.channel_file),)
    assert judge_home(replace(facts, free_bytes=PLENTY)).advice == f"chmod go= {home.channel_file}"


def test_a_wrong_clock_fails_whoever_noticed() -> None:
    wrong = CLOCK | {"differ": 3, "own_error_s": 300.0, "advice": "This machine's clock seems to be 300 s slow"}
    for own, strangers in ((wrong, None), (CLOCK, wrong)):
        check = judge_clock(own, strangers)
        assert check.state == "fail"
        assert "300 s slow" in check.seen
        assert "timedatectl" in check.advice


def test_clocks_that_agree_differ_or_are_not_known() -> None:
    nobody = CLOCK | {"compared": 0}
    assert judge_clock(nobody, None).state == "skip"
    assert judge_clock(nobody, CLOCK).seen == "it agrees with 3 other clocks"
    assert judge_clock(CLOCK | {"compared": 1}, None).seen == "it agrees with 1 other clock"
    most = judge_clock(CLOCK | {"differ": 1}, None)
    assert (most.state, "agrees with 2 of 3 other clocks" in most.seen) == ("pass", True)
    differs = judge_clock(CLOCK | {"differ": 1, "compared": 2}, None)
    assert (differs.state, "1 of 2 other clocks" in differs.seen) == ("warn", True)


def entry(connected: bool) -> dict[str, Any]:
    return {"peer_id": OTHER, "connected": connected, "error": None if connected else "Connection refused"}


@pytest.mark.parametrize(
    ("peers", "entries", "state", "words"),
    [
        (3, [entry(True)], "pass", "connected to 3 peers"),
        (1, [], "pass", "connected to 1 peer"),
        (2, [entry(True), entry(False)], "warn", "1 of 2 bootstrap nodes not connected (12D3…6iDEp: "),
        (0, [entry(False)], "fail", "Connection refused"),
        (0, [], "warn", "a network of one"),
    ],
)
def test_connections(peers: int, entries: list[dict[str, Any]], state: str, words: str) -> None:
    check = judge_connections(peers, entries, AT)
    assert check.state == state
    assert words.replace("6iDEp", OTHER[-6:]) in check.seen
    assert (AT in check.advice) == (peers == 0)


@pytest.mark.parametrize(
    ("state", "serves", "verdict"),
    [
        ("reachable", True, "pass"),
        ("relayed", True, "warn"),
        ("private", True, "fail"),
        ("private", False, "warn"),
        ("unknown", True, "warn"),
    ],
)
def test_reachability(state: str, serves: bool, verdict: str) -> None:
    found = {"state": state, "reason": "somebody said so", "advice": None}
    check = judge_reachability(found, ["/ip4/203.0.113.5/tcp/4601"], serves=serves, listens=True, at=AT)
    assert (check.state, "somebody said so" in check.seen, bool(check.advice)) == (verdict, True, verdict != "pass")


def test_who_keeps_to_this_machine_is_told_so() -> None:
    found = {"state": "reachable", "reason": "a peer on this machine dialled us", "advice": None}
    check = judge_reachability(found, ["/ip4/127.0.0.1/tcp/4601"], serves=True, listens=True, at=AT)
    assert check.state == "warn"
    assert 'listen = ["/ip4/0.0.0.0/tcp/4601"]' in check.advice
    assert judge_reachability(found, [], serves=True, listens=False, at=AT).state == "skip"


def dial(address: str, error: str | None = None) -> dict[str, Any]:
    return {"address": address, "ms": None if error else 1.0, "error": error}


@pytest.mark.parametrize(
    ("errors", "state", "verdict"),
    [
        ((), "unknown", "skip"),
        ((None, None), "unknown", "pass"),
        ((None, "timed out"), "reachable", "pass"),
        ((None, "timed out"), "unknown", "warn"),
        (("timed out", "timed out"), "reachable", "warn"),
        (("timed out", "timed out"), "private", "fail"),
    ],
)
def test_addresses(errors: tuple[str | None, ...], state: str, verdict: str) -> None:
    dials = [dial(f"/ip4/203.0.113.{i}/tcp/4601", error) for i, error in enumerate(errors)]
    check = judge_addresses(dials, state=state)
    assert check.state == verdict
    if errors:
        assert "says nothing of the router" in check.seen
        assert check.seen.count("timed out") == sum(error is not None for error in errors)


def heard(by: str | None = None, error: str | None = None) -> dict[str, Any]:
    return {"peer_id": OTHER, "knows": by is not None, "heard_by": by, "heard_ago_ms": 2500, "error": error}


@pytest.mark.parametrize(
    ("rows", "uptime_s", "state", "words"),
    [
        ([], YOUNG_S, "skip", "nobody to ask"),
        (
            [heard("gossip"), heard("gossip"), heard("asked")],
            YOUNG_S,
            "pass",
            "2 by gossip, 1 by asking it, at most 2 s",
        ),
        ([heard("gossip"), heard(), heard()], YOUNG_S, "warn", "1 of 3"),
        ([heard(), heard(error="no answer")], YOUNG_S, "fail", "none of 2 peers asked knows"),
        ([heard()], YOUNG_S - 1, "warn", "none of 1"),
    ],
)
def test_who_heard_the_announcement(rows: list[dict[str, Any]], uptime_s: float, state: str, words: str) -> None:
    check = judge_heard(rows, uptime_s=uptime_s, at=AT)
    assert (check.state, words in check.seen) == (state, True), check
    assert bool(check.advice) == (state in ("warn", "fail"))


def test_the_directory() -> None:
    found = {"age_ms": 12_000, "addresses": [], "listed": True, "providers": 3}
    check = judge_directory(found, "minilm", uptime_s=YOUNG_S, at=AT)
    assert (check.state, "12 s old" in check.seen, "2 others" in check.seen) == ("pass", True, True)
    for missing in ({"age_ms": None}, {"listed": False}):
        for uptime_s, word in ((YOUNG_S, "cocoon-node peers"), (1.0, "wait a minute")):
            check = judge_directory(found | missing, "minilm", uptime_s=uptime_s, at=AT)
            assert (check.state, word in check.advice) == ("warn", True)


def test_a_stranger_enters_by_others() -> None:
    peers = [
        {"peer_id": OTHER, "direction": "outbound", "addresses": ["/ip4/10.0.0.2/tcp/4601"], "listens_on": []},
        {
            "peer_id": PEER,
            "direction": "inbound",
            "addresses": ["/ip4/10.0.0.3/tcp/55555"],
            "listens_on": ["/ip4/10.0.0.3/tcp/4601", "/unix/nonsense"],
        },
    ]
    status = {"bootstrap": [{"peer_id": OTHER, "addresses": ["/ip4/10.0.0.2/tcp/4601", "/ip4/10.0.0.2/tcp/4602"]}]}
    assert ways_in(status, peers) == [
        f"/ip4/10.0.0.2/tcp/4601/p2p/{OTHER}",
        f"/ip4/10.0.0.3/tcp/4601/p2p/{PEER}",
        f"/ip4/10.0.0.2/tcp/4602/p2p/{OTHER}",
    ]
    config = stranger_config(["/ip4/10.0.0.2/tcp/4601/p2p/" + OTHER])
    assert (config.network.listen, config.provider.serve, config.network.mdns) == ((), False, False)
    assert config.network.entries(private=True) == config.network.entries(private=False) != ()


def test_rules_whose_facts_a_machine_cannot_tell() -> None:
    blind = MachineFacts(0)
    assert untold_rules(IdleRules(), blind) == []
    assert untold_rules(IdleRules(user_idle_s=60, hours=((0, 60),)), blind) == ["user_idle_minutes"]
    every = IdleRules(user_idle_s=60, mains_power=True, temperature_max_c=80, load_max=1)
    assert untold_rules(every, blind) == ["user_idle_minutes", "mains_power", "temperature_max_c", "load_max"]
    assert untold_rules(every, MachineFacts(0, 5.0, False, 50.0, 0.0)) == []


def test_a_model_that_is_here_and_not_on_offer_is_a_warning_with_its_reason() -> None:
    check = judge_left_out({"name": "large", "problem": "it would take about 9.1 GiB of memory"}, at=" --home /h")
    assert (check.name, check.state) == ("model large", "warn")
    assert check.seen == "it is not on offer: it would take about 9.1 GiB of memory"
    assert check.advice.endswith("cocoon-node models remove large --home /h")


@pytest.mark.parametrize(
    ("status", "seen"),
    [
        ({"serve": True}, "no model is installed"),
        ({"serve": False, "auto_serve": True}, "serve is false"),
        ({"serve": True, "auto_serve": True}, "picks up models that are wanted"),
    ],
)
def test_why_a_node_offers_nothing(status: dict[str, Any], seen: str) -> None:
    assert seen in judge_without_models(status, at="").seen
