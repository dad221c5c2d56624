"""Dialling a peer: which of its addresses, in which order, and all of them against each other.

There is no pause between direct addresses (py-libp2p waits 250 ms before each): the first to complete its handshake wins and
the others are given up. Relayed addresses begin DIAL_RELAYED_DELAY_S later, or as soon as no direct one is left.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

import trio

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import (
    ADDRESS_CHARS_MAX,
    DIAL_FAILURE_REMEMBERED_S,
    DIAL_FAILURES_MAX,
    DIAL_RELAYED_DELAY_S,
    DIAL_TIMEOUT_S,
    DIALS_PER_PEER_MAX,
)
from cocoon_p2p.net.addresses import Address, parse_dialable
from cocoon_p2p.net.interfaces import own_hosts
from cocoon_p2p.net.port import NO_RELAY_YET_HINT
from cocoon_p2p.net.switch.origins import origin_of_host

Connection = TypeVar("Connection", bound="Abortable")
_TELLING_CODES = frozenset({"WRONG_PEER", "NOT_IN_NETWORK", "HANDSHAKE"})
"""Somebody answers there, and it is not whom we look for."""


class Abortable(Protocol):
    async def abort(self) -> None: ...


class FailedLately:
    """Addresses whose last dial failed, for a while. Bounded; the longest known goes first."""

    def __init__(self) -> None:
        self._failed_at: OrderedDict[Address, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failed_at)

    def add(self, address: Address, now: float) -> None:
        self._failed_at[address] = now
        self._failed_at.move_to_end(address)
        if len(self._failed_at) > DIAL_FAILURES_MAX:
            self._failed_at.popitem(last=False)

    def forget(self, address: Address) -> None:
        self._failed_at.pop(address, None)

    def holds(self, address: Address, now: float) -> bool:
        failed_at = self._failed_at.get(address)
        if failed_at is not None and now - failed_at >= DIAL_FAILURE_REMEMBERED_S:
            del self._failed_at[address]
            return False
        return failed_at is not None


@dataclass(slots=True)
class DialPlan:
    """What to dial, best first, and why the other addresses are not among it."""

    direct: list[Address] = field(default_factory=list)
    relayed: list[Address] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    hint: str | None = None
    """What to do when nothing comes of it."""


def make_plan(
    peer: PeerId,
    given: Sequence[str],
    known: Sequence[Address],
    *,
    failed_lately: Callable[[Address], bool],
    worked: Address | None,
    own_hosts: Callable[[], frozenset[str]],
) -> DialPlan:
    """Of the addresses that the caller gave and those that we know."""
    plan = DialPlan()
    targets: list[Address] = []
    for text in given:
        found = parse_dialable([text])
        if not found:
            plan.failures[_shown(text)] = "not an address that this node can dial"
        elif found[0].peer not in (None, peer):
            plan.failures[text] = "names another peer"
        elif found[0].relay == peer:
            plan.failures[text] = "a peer is no relay to itself"
        else:
            targets.append(replace(found[0], peer=None))
    targets = list(dict.fromkeys([*targets, *known]))
    direct = [target for target in targets if target.relay is None]
    plausible = _plausible(direct, own_hosts)
    plan.failures |= {str(target): "an address in another network" for target in direct if target not in plausible}
    if _are_elsewhere(targets, own_hosts):
        plan.hint = NO_RELAY_YET_HINT
    plan.direct = _ordered(plausible, failed_lately, worked)[:DIALS_PER_PEER_MAX]
    plan.relayed = _ordered([t for t in targets if t.relay is not None], failed_lately, worked)[:DIALS_PER_PEER_MAX]
    return plan


def _shown(text: str) -> str:
    """As it may stand in an error, whoever wrote it."""
    return "".join(char if char.isprintable() else "?" for char in text[:ADDRESS_CHARS_MAX])


def _are_elsewhere(targets: Sequence[Address], own_hosts: Callable[[], frozenset[str]]) -> bool:
    """Whether all of these lie in private networks that we are not in, or in the peer's own machine."""
    away = [target for target in targets if not target.is_loopback]
    if not away or any(target.is_public or target.relay is not None for target in targets):
        return False
    near = {origin_of_host(host) for host in own_hosts()}
    return all(origin_of_host(target.host) not in near for target in away)


def own_hosts_now() -> frozenset[str]:
    """The addresses of this machine in the networks that it is in, and loopback. Without those of its containers, which
    come and go, and which the next machine has, too."""
    return frozenset(own.host for own in own_hosts() if not own.is_inside)


def _plausible(direct: list[Address], own_hosts: Callable[[], frozenset[str]]) -> list[Address]:
    """Without loopback addresses, unless the peer has no others or one of them is ours too (then it is on this machine);
    and without private ones when it has public ones and we are in no private network."""
    if not any(target.is_loopback or not target.is_public for target in direct) or len(direct) == 1:
        return direct
    elsewhere = [target for target in direct if not target.is_loopback]
    if not elsewhere:
        return direct
    own = own_hosts()
    if not any(target.host in own for target in elsewhere):
        direct = elsewhere
    if any(target.is_public for target in direct) and not _in_private_network(own):
        direct = [target for target in direct if target.is_public or target.is_loopback]
    return direct


def _in_private_network(own_hosts: frozenset[str]) -> bool:
    own = [Address("ip6" if ":" in host else "ip4", host, 1) for host in own_hosts]
    return any(not address.is_public and not address.is_loopback for address in own)


def _ordered(targets: list[Address], failed_lately: Callable[[Address], bool], worked: Address | None) -> list[Address]:
    """What worked last, then what has not failed lately, and in each of these IPv6 and IPv4 by turns, in the order given."""
    places: dict[str, int] = {}
    ranks = {}
    for target in targets:
        family = "6" if target.kind in ("ip6", "dns6") else "4"
        place = places.get(family, 0)
        places[family] = place + 1
        ranks[target] = (target != worked, failed_lately(target), place)
    return sorted(targets, key=lambda target: ranks[target])


async def race(
    peer: PeerId,
    plan: DialPlan,
    attempt: Callable[[Address], Awaitable[Connection]],
    *,
    on_failure: Callable[[Address], None],
) -> Connection:
    """The first connection that `attempt` makes. Raises TransportError that says of each address why not, within
    DIAL_TIMEOUT_S: with one of _TELLING_CODES when all addresses failed with that one, else UNREACHABLE; NO_ADDRESS when
    there is no address."""
    if not (plan.direct or plan.relayed or plan.failures):
        raise TransportError(f"no address of {peer} is known", outcome_known=True, code="NO_ADDRESS")
    contest = _Contest(plan.failures, attempt, on_failure)
    over = False
    try:
        with trio.move_on_after(DIAL_TIMEOUT_S) as timeout:
            async with trio.open_nursery() as nursery:
                await _run(plan, contest, nursery)
        over = True
    finally:
        if not over and contest.won is not None:  # we were cancelled as it came through
            with trio.CancelScope(shield=True):
                await contest.won.abort()
    if contest.won is not None:
        return contest.won
    if timeout.cancelled_caught:
        for target in [*plan.direct, *plan.relayed]:
            if str(target) not in plan.failures:
                plan.failures[str(target)] = "timed out"
                on_failure(target)
    reasons = "; ".join(f"{address}: {reason}" for address, reason in plan.failures.items())
    codes = {contest.codes.get(address, "") for address in plan.failures}
    code = codes.pop() if len(codes) == 1 and codes <= _TELLING_CODES else "UNREACHABLE"
    raise TransportError(f"cannot connect to {peer}: {reasons}", outcome_known=True, code=code, hint=plan.hint)


async def _run(plan: DialPlan, contest: _Contest[Connection], nursery: trio.Nursery) -> None:
    direct_failed = trio.Event()
    left = len(plan.direct)

    async def run_direct(target: Address) -> None:
        nonlocal left
        await contest.enter(target, nursery.cancel_scope)
        left -= 1
        if not left:
            direct_failed.set()

    for target in plan.direct:
        nursery.start_soon(run_direct, target)
    if plan.direct and plan.relayed:
        with trio.move_on_after(DIAL_RELAYED_DELAY_S):
            await direct_failed.wait()
    for target in plan.relayed:
        nursery.start_soon(contest.enter, target, nursery.cancel_scope)


class _Contest(Generic[Connection]):
    def __init__(
        self,
        failures: dict[str, str],
        attempt: Callable[[Address], Awaitable[Connection]],
        on_failure: Callable[[Address], None],
    ) -> None:
        self.won: Connection | None = None
        self.codes: dict[str, str] = {}
        """Of the failures, by address."""
        self._failures = failures
        self._attempt = attempt
        self._on_failure = on_failure

    async def enter(self, target: Address, scope: trio.CancelScope) -> None:
        """Dial `target`; the first to come through ends the others, all those in `scope`."""
        try:
            connection = await self._attempt(target)
        except TransportError as error:
            self._failures[str(target)] = error.message
            self.codes[str(target)] = error.code
            self._on_failure(target)
            return
        if self.won is None:
            self.won = connection
            scope.cancel()
        else:
            await connection.abort()
