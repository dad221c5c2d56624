"""Which addresses are dialled, in which order, and how they race; on trio's mock clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import (
    DIAL_FAILURE_REMEMBERED_S,
    DIAL_FAILURES_MAX,
    DIAL_RELAYED_DELAY_S,
    DIAL_TIMEOUT_S,
    DIALS_PER_PEER_MAX,
)
from cocoon_p2p.net.address_book import AddressBook
from cocoon_p2p.net.addresses import Address, parse_address
from cocoon_p2p.net.switch.dialling import DialPlan, FailedLately, make_plan, race

PEER = PeerId("12D3KooWPcfGdBCrdxX9nqGAdPAdkPMqfKEDjbZWGA4UFBJuY4rP")
OTHER = PeerId("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN")
PUBLIC = "/ip4/8.8.4.4/tcp/1"
PUBLIC6 = "/ip6/2a01:4f8::1/tcp/1"
LAN = "/ip4/192.168.1.7/tcp/1"
LOOPBACK = "/ip4/127.0.0.1/tcp/1"
RELAYED = f"/ip4/8.8.8.8/tcp/4001/p2p/{OTHER}/p2p-circuit"


def plan(
    *given: str,
    known: tuple[str, ...] = (),
    failed: tuple[str, ...] = (),
    worked: str | None = None,
    own: tuple[str, ...] = ("192.168.1.2", "127.0.0.1"),
) -> DialPlan:
    return make_plan(
        PEER,
        given,
        [parse_address(text) for text in known],
        failed_lately=lambda address: str(address) in failed,
        worked=parse_address(worked) if worked else None,
        own_hosts=lambda: frozenset(own),
    )


def texts(addresses: list[Address]) -> list[str]:
    return list(map(str, addresses))


# --- the plan --------------------------------------------------------------------------------------------------------


def test_relayed_addresses_are_apart() -> None:
    made = plan(RELAYED, PUBLIC)
    assert (texts(made.direct), texts(made.relayed)) == ([PUBLIC], [RELAYED])


def test_what_cannot_be_dialled_is_told() -> None:
    made = plan("/ip4/1.2.3.4/udp/1", f"{PUBLIC}/p2p/{OTHER}", f"/ip4/8.8.8.8/tcp/1/p2p/{PEER}/p2p-circuit")
    assert not made.direct and not made.relayed
    assert list(made.failures.values()) == [
        "not an address that this node can dial",
        "names another peer",
        "a peer is no relay to itself",
    ]
    assert texts(plan(f"{PUBLIC}/p2p/{PEER}", known=(PUBLIC,)).direct) == [PUBLIC]


def test_private_addresses_of_another_network_ask_for_patience() -> None:
    """Its router lets nobody in, and no relay takes connections for it: not for long."""
    elsewhere = "/ip4/10.9.9.9/tcp/1"
    assert (
        plan(elsewhere, LOOPBACK).hint == "its node is behind a router and has no relay yet; ask again in a few seconds"
    )
    for given in ((elsewhere, PUBLIC), (elsewhere, RELAYED), (LAN,), (LAN, elsewhere), (LOOPBACK,), ()):
        assert plan(*given).hint is None, given


def test_what_worked_comes_first_and_what_failed_last() -> None:
    a, b, c = (f"/ip4/8.8.4.{n}/tcp/1" for n in (1, 2, 3))
    assert texts(plan(a, b, c, worked=c, failed=(a,)).direct) == [c, b, a]


def test_families_take_turns() -> None:
    a, b, c = (f"/ip4/8.8.4.{n}/tcp/1" for n in (1, 2, 3))
    assert texts(plan(a, b, c, PUBLIC6).direct)[:2] == [a, PUBLIC6]


def test_loopback_of_another_machine_is_left_out() -> None:
    made = plan(LOOPBACK, LAN, PUBLIC)
    assert texts(made.direct) == [LAN, PUBLIC]
    assert made.failures == {LOOPBACK: "an address in another network"}


def test_loopback_of_this_machine_is_dialled() -> None:
    assert LOOPBACK in texts(plan(LOOPBACK, LAN, own=("192.168.1.7",)).direct)
    assert texts(plan(LOOPBACK, "/ip6/::1/tcp/1").direct) == [LOOPBACK, "/ip6/::1/tcp/1"]
    assert texts(plan(LOOPBACK).direct) == [LOOPBACK]


def test_private_addresses_only_from_private_networks() -> None:
    assert texts(plan(LAN, PUBLIC, own=("8.8.8.8",)).direct) == [PUBLIC]
    assert texts(plan(LAN, own=("8.8.8.8",)).direct) == [LAN], "it has no other"


def test_a_plan_is_bounded() -> None:
    made = plan(*(f"/ip4/8.8.4.{n}/tcp/1" for n in range(50)))
    assert len(made.direct) == DIALS_PER_PEER_MAX


def test_failures_are_remembered_for_a_while() -> None:
    lately = FailedLately()
    address = parse_address(PUBLIC)
    lately.add(address, 100.0)
    assert lately.holds(address, 100.0 + DIAL_FAILURE_REMEMBERED_S - 1)
    assert not lately.holds(address, 100.0 + DIAL_FAILURE_REMEMBERED_S)
    assert len(lately) == 0
    lately.add(address, 200.0)
    lately.forget(address)
    assert not lately.holds(address, 200.0)
    for n in range(DIAL_FAILURES_MAX + 5):
        lately.add(Address("dns4", f"host{n}.example", 1), 0.0)
    assert len(lately) == DIAL_FAILURES_MAX


def test_the_book_keeps_what_worked() -> None:
    book = AddressBook()
    book.confirm(PEER, PUBLIC)
    book.add(PEER, [f"/ip4/10.0.0.{n}/tcp/1" for n in range(100)])
    assert book.worked(PEER) == parse_address(PUBLIC)
    assert parse_address(PUBLIC) in book.get(PEER)
    assert book.worked(OTHER) is None


# --- the race --------------------------------------------------------------------------------------------------------


class Connection:
    def __init__(self, address: Address) -> None:
        self.address = address
        self.aborted = False

    async def abort(self) -> None:
        self.aborted = True


class Course:
    """Dials that take a time, and then work or fail; and what was tried when."""

    def __init__(self, **outcomes: tuple[float, str | None]) -> None:
        self.outcomes = outcomes
        self.begun: dict[str, float] = {}
        self.made: list[Connection] = []
        self.failed: list[str] = []
        self.start = trio.current_time()

    async def attempt(self, address: Address) -> Connection:
        name = "relay" if address.relay else address.host.rpartition(".")[2]
        self.begun[name] = trio.current_time() - self.start
        delay, failure = self.outcomes[f"a{name}" if name != "relay" else name]
        await trio.sleep(delay)
        if failure is not None:
            code = "WRONG_PEER" if failure.startswith("another peer") else None
            raise TransportError(failure, outcome_known=True, code=code)
        self.made.append(Connection(address))
        return self.made[-1]

    async def run(self, *addresses: str) -> Connection:
        return await race(PEER, plan(*addresses), self.attempt, on_failure=lambda a: self.failed.append(str(a)))


A, B, C = (f"/ip4/8.8.4.{n}/tcp/1" for n in (1, 2, 3))


async def test_all_begin_at_once_and_the_first_wins(autojump_clock: MockClock) -> None:
    course = Course(a1=(3.0, None), a2=(0.5, None), a3=(0.1, "Connection refused"))
    won = await course.run(A, B, C)
    assert str(won.address) == B
    assert set(course.begun.values()) == {0.0}
    assert trio.current_time() - course.start == pytest.approx(0.5)
    assert course.failed == [C], "those that were given up have not failed"


async def test_two_that_win_at_the_same_moment(autojump_clock: MockClock) -> None:
    course = Course(a1=(0.5, None), a2=(0.5, None))
    won = await course.run(A, B)
    assert [connection.aborted for connection in course.made if connection is not won] in ([True], [])
    assert not won.aborted


async def test_a_relay_waits_for_direct_addresses(autojump_clock: MockClock) -> None:
    course = Course(a1=(4.0, None), relay=(0.2, None))
    won = await course.run(A, RELAYED)
    assert won.address.relay == OTHER
    assert course.begun["relay"] == pytest.approx(DIAL_RELAYED_DELAY_S)


async def test_a_quick_direct_dial_needs_no_relay(autojump_clock: MockClock) -> None:
    course = Course(a1=(0.05, None), relay=(0.01, None))
    assert (await course.run(A, RELAYED)).address.relay is None
    assert "relay" not in course.begun


@pytest.mark.parametrize("addresses", [(RELAYED,), (A, RELAYED)])
async def test_a_relay_begins_when_nothing_direct_is_left(
    addresses: tuple[str, ...], autojump_clock: MockClock
) -> None:
    course = Course(a1=(0.01, "Connection refused"), relay=(0.2, None))
    await course.run(*addresses)
    assert course.begun["relay"] == pytest.approx(0.01 if len(addresses) == 2 else 0.0)


@pytest.mark.parametrize(
    ("second", "code"), [("another peer answers there", "WRONG_PEER"), ("Connection refused", "UNREACHABLE")]
)
async def test_what_all_addresses_say_is_the_code_of_the_failure(
    second: str, code: str, autojump_clock: MockClock
) -> None:
    course = Course(a1=(0.1, "another peer answers there"), a2=(0.2, second))
    with pytest.raises(TransportError) as caught:
        await course.run(A, B)
    assert caught.value.code == code


async def test_each_failure_is_told(autojump_clock: MockClock) -> None:
    course = Course(a1=(0.1, "Connection refused"), a2=(0.2, "another peer answers there"), a3=(99.0, None))
    with pytest.raises(TransportError) as caught:
        await course.run(A, B, C, "/ip4/1.2.3.4/udp/5", LOOPBACK)
    assert caught.value.code == "UNREACHABLE"
    for part in (
        f"{A}: Connection refused",
        f"{B}: another peer",
        f"{C}: timed out",
        "udp/5: not an address",
        LOOPBACK,
    ):
        assert part in caught.value.message
    assert trio.current_time() - course.start == pytest.approx(DIAL_TIMEOUT_S)
    assert sorted(course.failed) == [A, B, C]


async def test_no_address_is_an_error_of_its_own() -> None:
    with pytest.raises(TransportError) as caught:
        await Course().run()
    assert caught.value.code == "NO_ADDRESS"


async def test_a_connection_that_comes_as_we_give_up_is_closed(autojump_clock: MockClock) -> None:
    """The caller's patience and the dial end at the same moment."""
    closed: list[Callable[[], bool]] = []
    for _ in range(20):
        course = Course(a1=(0.5, None))
        won = None
        with trio.move_on_after(0.5):
            won = await course.run(A)
        if won is None:
            closed += [lambda made=made: made.aborted for made in course.made]
    assert all(check() for check in closed)
