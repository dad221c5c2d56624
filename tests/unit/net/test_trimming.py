"""Which of several connections is used, and which go when there are too many."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.switch.links import Link, LinkTable, Tag
from cocoon_p2p.net.switch.origins import origin_of_host
from cocoon_p2p.net.switch.trimming import expendable, idle_leftovers
from cocoon_p2p.net.yamux.connection import MuxedConnection

HERE = origin_of_host("127.0.0.1")
NOW = 1000.0
GRACE_S = 20.0


@dataclass
class Connection:
    """What a table of links looks at."""

    peer: PeerId
    is_outbound: bool = True
    relayed: bool = False
    is_over: bool = False
    streams_inbound: int = 0
    streams_outbound: int = 0


@dataclass
class World:
    table: LinkTable = field(default_factory=lambda: LinkTable(PeerId("b")))

    def add(self, peer: str, *, age_s: float = 100.0, idle_s: float = 0.0, **traits: bool | int) -> Link:
        connection = cast(MuxedConnection, Connection(PeerId(peer), **traits))  # type: ignore[arg-type]
        link, _ = self.table.add(connection, HERE, NOW - age_s)
        link.used_at = NOW - idle_s
        return link

    def expendable(self, surplus: int, *, spares: bool = True) -> list[Link]:
        return expendable(
            self.table,
            NOW,
            surplus=surplus,
            grace_s=GRACE_S,
            is_double=lambda link: self.table.best(link.peer) not in (None, link),
            spares=spares,
        )


def test_direct_before_relayed_and_alive_before_over() -> None:
    world = World()
    relayed = world.add("x", relayed=True)
    assert world.table.best(PeerId("x")) is relayed
    direct = world.add("x", age_s=500)
    assert world.table.best(PeerId("x")) is direct
    cast(Connection, direct.connection).is_over = True
    assert world.table.best(PeerId("x")) is relayed
    assert world.table.best(PeerId("nobody")) is None


def test_both_ends_prefer_the_same_connection() -> None:
    """Two peers that dialled each other at the same moment. `a` has the smaller id, so it is the one that a made."""
    a, b = LinkTable(PeerId("a")), LinkTable(PeerId("b"))
    for made_by_a in (True, False):
        a.add(cast(MuxedConnection, Connection(PeerId("b"), is_outbound=made_by_a)), HERE, NOW)
        b.add(cast(MuxedConnection, Connection(PeerId("a"), is_outbound=not made_by_a)), HERE, NOW)
    best_of_a, best_of_b = a.best(PeerId("b")), b.best(PeerId("a"))
    assert best_of_a is not None and best_of_a.connection.is_outbound
    assert best_of_b is not None and not best_of_b.connection.is_outbound


def test_doubles_go_when_they_are_idle_and_not_new() -> None:
    world = World()
    best = world.add("x", is_outbound=True)
    double = world.add("x", is_outbound=False)
    busy = world.add("x", is_outbound=False, streams_inbound=1)
    new = world.add("x", is_outbound=False, age_s=1)
    if world.table.best(PeerId("x")) is not best:
        best, double = double, best
    found = idle_leftovers(world.table, lambda link: world.table.best(link.peer), NOW, GRACE_S)
    assert double in found
    assert not {busy, new, world.table.best(PeerId("x"))} & set(found)


def test_the_order_in_which_they_go() -> None:
    world = World()
    recent = world.add("recent", streams_inbound=1)
    unused = world.add("unused", idle_s=50, streams_inbound=1)
    idle = world.add("idle", idle_s=5)
    relayed = world.add("relayed", relayed=True, streams_inbound=1)
    near = world.add("near", idle_s=90)
    world.table.tag(PeerId("near"), "neighbour")
    assert world.expendable(9) == [relayed, idle, unused, recent, near]
    assert world.expendable(2) == [relayed, idle]
    assert world.expendable(0) == world.expendable(-3) == []


def test_what_stays() -> None:
    world = World()
    job = world.add("job")
    job.application_streams = 1
    world.add("new", age_s=1)
    tags: tuple[Tag, ...] = ("job", "relay", "bootstrap", "manual")
    for tag in tags:
        world.table.tag(PeerId(tag + "-peer"), tag)
        world.add(tag + "-peer")
    assert world.expendable(99) == []
    assert world.expendable(99, spares=False)[0].peer == "new", "when there is no way round it they go too"
    assert world.expendable(99, spares=False)[-1] is job


def test_tags_stay_with_the_peer() -> None:
    table = LinkTable(PeerId("b"))
    peer = PeerId("x")
    link, first = table.add(cast(MuxedConnection, Connection(peer)), HERE, NOW)
    assert first
    table.tag(peer, "relay")
    second, first = table.add(cast(MuxedConnection, Connection(peer)), HERE, NOW)
    assert not first and link.is_protected and second.is_protected
    assert not table.remove(link)
    assert table.remove(second)
    again, _ = table.add(cast(MuxedConnection, Connection(peer)), HERE, NOW)
    assert again.is_protected
    table.untag(peer, "relay")
    table.untag(peer, "relay")
    assert not again.is_protected
    assert len(table) == 1 and peer in table


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 100), st.integers(0, 2)), max_size=30),
    st.integers(0, 40),
)
def test_trimming_never_takes_what_is_spared(kinds: list[tuple[bool, bool, float, int]], surplus: int) -> None:
    world = World()
    for number, (relayed, protected, age_s, jobs) in enumerate(kinds):
        link = world.add(f"p{number}", relayed=relayed, age_s=age_s)
        link.application_streams = jobs
        if protected:
            link.tags = {"manual"}
    gone = world.expendable(surplus)
    assert len(gone) == len(set(gone)) <= surplus
    for link in gone:
        assert not link.application_streams and not link.is_protected and NOW - link.connected_at >= GRACE_S
