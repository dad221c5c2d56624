"""Rarest first, bandwidth, and who of a local network fetches what."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.policy.bandwidth import Bandwidth
from cocoon_p2p.policy.local_group import share_of
from cocoon_p2p.policy.rarest import Rarity

PIECES = 70
SETS = st.lists(st.integers(0, (1 << PIECES) - 1), max_size=6)


@given(held=SETS, gone=st.data(), candidates=st.integers(0, (1 << PIECES) - 1), start=st.integers(0, PIECES - 1))
def test_the_rarest_is_picked(held: list[int], gone: st.DataObject, candidates: int, start: int) -> None:
    rarity = Rarity(PIECES)
    for each in held:
        rarity.add(each)
    staying = list(held)
    if held:
        leaving = gone.draw(st.sampled_from(held))
        rarity.remove(leaving)
        staying.remove(leaving)
    count = Counter({i: sum(each >> i & 1 for each in staying) for i in range(PIECES)})
    picked = rarity.pick(candidates, start)
    wanted = [i for i in range(PIECES) if candidates >> i & 1]
    if not wanted:
        assert picked is None
        return
    least = min(count[i] for i in wanted)
    rarest = [i for i in wanted if count[i] == least]
    assert picked == next((i for i in rarest if i >= start), rarest[0])


@given(
    names=st.sets(st.binary(min_size=1, max_size=4), min_size=2, max_size=9),
    pieces=st.integers(0, 400),
    stage=st.integers(0, 3),
)
def test_a_group_divides_all_pieces_among_it(names: set[bytes], pieces: int, stage: int) -> None:
    group = sorted(names)
    shares = [share_of(name, names - {name}, pieces, stage) for name in group]
    run = len(names) ** stage
    if run >= pieces:
        assert set(shares) == {(1 << pieces) - 1}
        return
    for place, share in enumerate(shares):
        assert share == sum(1 << i for i in range(pieces) if i // run % len(names) == place)


def test_who_is_alone_has_all() -> None:
    assert share_of(b"a", (), 9) == share_of(b"a", [b"a"], 9) == (1 << 9) - 1


def test_bandwidth_is_a_rate_with_debt() -> None:
    bandwidth = Bandwidth(1000)
    now, sent = 0.0, 0
    while now < 100.0:
        assert bandwidth.allows(now)
        bandwidth.spend(now, 3000)
        sent += 3000
        now = max(now, bandwidth.ready_at(now))
    assert 99_000 <= sent <= 105_000


def test_no_limit() -> None:
    bandwidth = Bandwidth(0)
    bandwidth.spend(0.0, 1 << 40)
    assert bandwidth.allows(0.0) and bandwidth.ready_at(5.0) == 5.0
