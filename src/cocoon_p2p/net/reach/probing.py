"""Finding out whether others can dial this node, and acting on it: the driver of reachability.py.

It listens to identify (where do peers see us?), notices who dials us by himself, lets peers dial us back (AutoNAT), and hears
of relays and of the router. What follows: the addresses that others are told, whether relays are needed, and whether this
node keeps DHT records for others. Everything runs in the background; until somebody has told, the state is "unknown".
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from functools import partial
from typing import Protocol

import trio

from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import (
    AUTONAT_ASKED_AT_ONCE,
    AUTONAT_DOUBT_ROUNDS,
    AUTONAT_GATHER_S,
    AUTONAT_INTERVAL_S,
    AUTONAT_INTERVAL_UNKNOWN_S,
    AUTONAT_RETRY_S,
    AUTONAT_ROUND_INTERVAL_S,
)
from cocoon_p2p.net.addresses import Address, parse_dialable
from cocoon_p2p.net.identify.identify import Identification
from cocoon_p2p.net.port import Reachability
from cocoon_p2p.net.reach.autonat import AUTONAT, ask
from cocoon_p2p.net.reach.observed import ObservedAddresses
from cocoon_p2p.net.reach.reachability import (
    Scope,
    Situation,
    Vote,
    Votes,
    candidates,
    confirmed,
    judge,
    scope_of,
    wants_relay,
    widest,
)
from cocoon_p2p.net.supervisor import call_guarded, run_guarded
from cocoon_p2p.net.switch.links import Link
from cocoon_p2p.net.switch.streams import Streams
from cocoon_p2p.net.switch.switch import Switch
from cocoon_p2p.net.transport.pipe import TcpPipe

logger = logging.getLogger("cocoon_p2p.net")


class Relays(Protocol):
    """What is needed of relay_client.RelayClient."""

    on_change: Callable[[], object]

    def set_needed(self, needed: bool) -> None: ...

    def addresses(self) -> tuple[str, ...]: ...

    def relays(self) -> tuple[PeerId, ...]: ...


class Router(Protocol):
    """What is needed of upnp.PortMapper."""

    on_change: Callable[[], object]

    @property
    def mapped(self) -> tuple[Address, ...]: ...

    @property
    def outcome(self) -> str: ...


class Reach:
    """`run` it in a task; `status` at any time."""

    def __init__(
        self,
        switch: Switch,
        streams: Streams,
        identification: Identification,
        *,
        relays: Relays | None = None,
        router: Router | None = None,
        set_dht_server: Callable[[bool], object] | None = None,
        set_relay_server: Callable[[bool], object] | None = None,
    ) -> None:
        """`set_dht_server` and `set_relay_server` are called whenever the answer changes; None where the operator has
        decided."""
        self._switch = switch
        self._streams = streams
        self._identification = identification
        self._relays = relays
        self._router = router
        self._serving = {
            name: set_it for name, set_it in (("dht", set_dht_server), ("relay", set_relay_server)) if set_it
        }
        self._serves: dict[str, bool] = {}
        self._observed = ObservedAddresses()
        self._votes = Votes()
        self._seen_at: dict[PeerId, Address] = {}
        """Where each connected peer sees us."""
        self._hosts: dict[Scope, tuple[str, ...]] = {}
        self._state: Reachability | None = None
        self._mapped: tuple[Address, ...] = ()
        self._wake = trio.Event()
        self._rounds_in_doubt = 0
        """So many more rounds are asked soon, for what is believed may not be true any more."""
        self._tried = 0
        """How often somebody dialled us back, or tried."""
        self._was_alone = False
        identification.on_observed.append(self._take_observed)
        identification.on_described.append(self._take_described)
        switch.on_link.append(self._look_at)
        switch.on_peer_gone.append(self._forget)
        if relays is not None:
            relays.on_change = self.refresh
        if router is not None:
            router.on_change = self._look_at_router

    # --- what is known -----------------------------------------------------------------------------------------------

    def status(self) -> Reachability:
        return judge(self._situation(), self._votes, trio.current_time())

    def observed(self) -> tuple[Address, ...]:
        """Addresses under which others see our listening ports, as far as that is believed: for hole punching."""
        return self._observed.addresses(trio.current_time())

    def _situation(self) -> Situation:
        now = trio.current_time()
        scope = self._scope()
        return Situation(
            listening=tuple(parse_dialable(self._switch.addresses())),
            announced=self._switch.announced_addresses(),
            by_operator=bool(self._switch.announced),
            scope=scope,
            askable=frozenset(_voter(link) for link in self._askable(scope)),
            observed=self._observed.addresses(now),
            observed_hosts=self._observed.hosts(now),
            mapping=self._observed.mapping(now),
            mapped=self._router.mapped if self._router else (),
            upnp=self._router.outcome if self._router else None,
            relays=self._relays.relays() if self._relays else (),
        )

    def _scope(self) -> Scope | None:
        scopes = (scope_of(link.origin) for link in self._switch.links())
        return widest(scope for scope in scopes if scope is not None)

    def _askable(self, scope: Scope | None) -> list[Link]:
        """One link a peer, whichever of its links tells that it speaks AutoNAT: while a peer dials us back there is another
        one for a moment, of which nothing is known."""
        found = {
            link.peer: link
            for best in self._switch.links()
            for link in self._switch.links_of(best.peer)
            if AUTONAT in link.protocols and scope_of(link.origin) == scope and not link.connection.is_over
        }
        return list(found.values())

    # --- what is heard -----------------------------------------------------------------------------------------------

    def _take_observed(self, link: Link, seen: Address) -> None:
        observer = link.origin
        now = trio.current_time()
        if not self._observed.add(observer, seen, _local_port(link), now):
            return
        self._seen_at[link.peer] = seen
        scope = scope_of(observer)
        assert scope is not None, "identify tells nothing about relayed connections"
        hosts = self._observed.hosts(now)
        before = self._hosts.get(scope, ())
        self._hosts[scope] = hosts
        if before and not set(before) & set(hosts):
            self._votes.clear(scope)  # the router has another address now
        if before and set(before) != set(hosts):
            self._doubt()

    def _take_described(self, link: Link) -> None:
        if AUTONAT in link.protocols and self._was_alone:
            self._was_alone = False
            self._doubt()
        elif AUTONAT in link.protocols and self.status().state == "unknown":
            self._wake.set()
        self.refresh()

    def _look_at_router(self) -> None:
        assert self._router is not None
        if self._router.mapped != self._mapped:
            self._mapped = self._router.mapped
            self._doubt()
        self.refresh()

    def _doubt(self) -> None:
        """Ask soon instead of at the next turn, and not only once: votes of those not asked yet may be of another time."""
        self._rounds_in_doubt = AUTONAT_DOUBT_ROUNDS
        self._wake.set()

    async def _look_at(self, link: Link) -> None:
        """Who comes by himself, while no other connection with him is open, has found a way in: one that dials us back, or
        that came through a relay first, proves nothing that AutoNAT does not."""
        self.refresh()
        scope = scope_of(link.origin)
        alone = all(other is link for other in self._switch.links_of(link.peer))
        if scope is None or link.connection.is_outbound or not alone:
            return
        await link.identified.wait()
        if not link.ended.is_set():
            self._vote(scope, link, True, self._seen_at.get(link.peer))

    def _forget(self, peer: PeerId) -> None:
        self._seen_at.pop(peer, None)
        if not self._switch.links():
            self._was_alone = True
            self._observed.clear()
        self.refresh()

    def _vote(self, scope: Scope, link: Link, reached: bool, address: Address | None) -> None:
        believed = self.status().state
        contradicts = believed in ("private", "relayed") if reached else believed == "reachable"
        if (
            contradicts and not self._rounds_in_doubt
        ):  # where some can dial us and some cannot, it is not asked for ever
            self._doubt()
        self._votes.add(scope, Vote(_voter(link), reached, address, trio.current_time()))
        self.refresh()

    # --- asking ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Let peers dial us, again and again. Runs as long as the node."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._doubt_when_moved)
            await self._ask_for_ever()

    async def _doubt_when_moved(self) -> None:
        while True:
            await self._switch.moved.wait()
            self._doubt()

    async def _ask_for_ever(self) -> None:
        self.refresh()
        pause = retry = AUTONAT_RETRY_S
        spacing = AUTONAT_ROUND_INTERVAL_S
        while True:
            with trio.move_on_after(pause) as idle:
                await self._wake.wait()
            await trio.sleep(AUTONAT_GATHER_S)
            self._wake = trio.Event()
            if self._switch.addresses() and await self._ask_some():
                self._rounds_in_doubt = max(0, self._rounds_in_doubt - 1)
            self.refresh()
            if self.status().state == "unknown" or self._rounds_in_doubt:
                pause, retry = retry, min(2 * retry, AUTONAT_INTERVAL_UNKNOWN_S)
            else:
                pause, retry = AUTONAT_INTERVAL_S, AUTONAT_RETRY_S
            # Whatever changes all the time: in the end a round a minute.
            spacing = (
                AUTONAT_ROUND_INTERVAL_S if idle.cancelled_caught else min(2 * spacing, AUTONAT_INTERVAL_UNKNOWN_S)
            )
            await trio.sleep(spacing)

    async def _ask_some(self) -> bool:
        """Whether anybody has tried."""
        tried_before = self._tried
        async with trio.open_nursery() as nursery:
            for link in self._chosen():
                nursery.start_soon(run_guarded, "autonat", partial(self._ask, link), self._switch.counters)
        return self._tried > tried_before

    def _chosen(self) -> list[Link]:
        """One link a voter, those first that have not voted, or whose vote is old."""
        scope = self._scope()
        if scope is None:
            return []
        voted_at = {vote.voter: vote.at for vote in self._votes.current(scope, trio.current_time())}
        links = self._askable(scope)
        random.shuffle(links)
        by_voter = {_voter(link): link for link in links}
        ordered = sorted(by_voter, key=lambda voter: voted_at.get(voter, float("-inf")))
        return [by_voter[voter] for voter in ordered[:AUTONAT_ASKED_AT_ONCE]]

    async def _ask(self, link: Link) -> None:
        """Raises CocoonError."""
        wanted = candidates(self._situation(), self._seen_at.get(link.peer))
        scope = scope_of(link.origin)
        if not wanted or scope is None:
            return
        answer = await ask(self._streams, link, self._switch.peer_id, wanted)
        logger.debug("AutoNAT: %s says %s of %s", link.peer, answer.outcome, ", ".join(map(str, wanted)))
        if answer.outcome != "refused":
            self._tried += 1
            self._vote(scope, link, answer.outcome == "reached", answer.address or wanted[0])

    # --- acting ------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Judge anew, and do what follows."""
        situation = self._situation()
        now = trio.current_time()
        state = judge(situation, self._votes, now)
        self._announce(situation, state, now)
        before = ("unknown", ()) if self._state is None else (self._state.state, self._state.relays)
        if (state.state, state.relays) != before:
            logger.info("reachability: %s: %s", state.state, state.reason)
        self._state = state
        if self._relays is not None:
            self._relays.set_needed(wants_relay(situation, state))
        self._serve_others(situation, state)

    def _announce(self, situation: Situation, state: Reachability, now: float) -> None:
        mapped = situation.mapped if state.state in ("unknown", "reachable") else ()
        found = [] if situation.by_operator else [*confirmed(situation, self._votes, now), *mapped]
        relayed = self._relays.addresses() if self._relays else ()
        known = set(self._switch.addresses())
        extra = tuple(text for text in dict.fromkeys([*map(str, found), *relayed]) if text not in known)
        self._switch.extra_addresses = extra  # who is connected hears of it when it is news

    def _serve_others(self, situation: Situation, state: Reachability) -> None:
        """Records are kept, and circuits are relayed, by nodes that others can dial. On a LAN or one machine records are
        kept until the contrary is shown, too: a network that begins there has nobody to tell."""
        reachable = bool(situation.listening) and state.state == "reachable"
        local = bool(situation.listening) and state.state == "unknown" and situation.scope != "public"
        for name, wanted in (("dht", reachable or local), ("relay", reachable)):
            if name in self._serving and wanted != self._serves.get(name):
                self._serves[name] = wanted
                call_guarded(f"{name}_mode", partial(self._serving[name], wanted), None, self._switch.counters)
                self._identification.changed()


def _local_port(link: Link) -> int | None:
    """The one that we dialled from, 0 where that can't be told (WebSocket); None where the peer dialled us."""
    if not link.connection.is_outbound:
        return None
    pipe = link.connection.pipe
    try:
        return int(pipe.sock.getsockname()[1]) if isinstance(pipe, TcpPipe) else 0
    except OSError:  # it has just been closed
        return 0


def _voter(link: Link) -> str:
    """On the internet a subnet has one vote, whoever is in it; a LAN is one subnet, and there each peer has one."""
    origin = link.origin
    return origin.name if origin.kind == "public" else link.peer
