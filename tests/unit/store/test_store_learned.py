"""What is kept of providers and of choices: whole, bounded, and there again after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cocoon_p2p.drivers.experience import ExperienceKeeper
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.limits import CONSIDERATION_BYTES_MAX
from cocoon_p2p.policy.experience import Experience, Outcome
from cocoon_p2p.store import ConsiderationRecord, Considerations, ExperienceRecord, Experiences, Store, open_store

ONE, TWO, MODEL, OTHER = PeerId("one"), PeerId("two"), ModelId("a" * 64), ModelId("b" * 64)


class FixedClock:
    def now(self) -> float:
        return 0.0

    def unix(self) -> float:
        return 1_800_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "state.sqlite3") as opened:
        yield opened


def test_experiences_are_replaced_and_bounded(store: Store) -> None:
    table = Experiences(store._database, kept_max=3)
    records = [ExperienceRecord(PeerId(f"p{n}"), "m", Experience(n, 1.5, n, n, None, 2.5)) for n in range(5)]
    table.save(records)
    assert table.all() == records
    table.save([ExperienceRecord(PeerId("p4"), "m", Experience(tries=9, at_ms=9))])
    table.prune()
    assert [(each.peer_id, each.experience.tries) for each in table.all()] == [("p2", 2), ("p3", 3), ("p4", 9)]


def test_considerations_are_found_by_prefix_and_bounded(store: Store) -> None:
    table = Considerations(store._database, kept_max=2)
    table.save([ConsiderationRecord(f"{n:032x}", f'{{"n":{n}}}') for n in (0x10, 0x11, 0x20)])
    table.prune()
    assert [each.wish[-2:] for each in table.find("0" * 30)] == ["20", "11"]
    assert table.find(f"{0x11:032x}")[0].body == '{"n":17}'
    assert table.find(f"{0x10:032x}") == []
    table.save([ConsiderationRecord("f" * 32, "x" * (CONSIDERATION_BYTES_MAX + 1))])
    assert table.find("f") == []


def test_a_keeper_remembers_over_a_restart_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    with open_store(path) as store:
        keeper = ExperienceKeeper(store, FixedClock())
        assert keeper.of(ONE, MODEL) == Experience()
        keeper.note(ONE, MODEL, Outcome.DONE, items=2, total_ms=30.0, execute_us=20_000)
        keeper.note(TWO, MODEL, Outcome.FAILED)
        assert store.experiences.all() == [], "it waits for another write"
        keeper.write()
        before = keeper.of(ONE, MODEL)
        keeper.note(TWO, MODEL, Outcome.WRONG)
        assert {each.peer_id: each.experience.bad for each in store.experiences.all()}[TWO] == 21, "that does not wait"
    with open_store(path) as store:
        keeper = ExperienceKeeper(store, FixedClock())
        assert keeper.of(ONE, MODEL) == before
        assert (before.tries, before.overhead_ms, before.item_us) == (1, 10.0, 10_000.0)
        assert keeper.reliability(TWO) < 0.05
        assert keeper.reliability(ONE) > 0.5
        assert keeper.knows(ONE)
        assert not keeper.knows(PeerId("three"))


def test_success_counts_for_a_provider_and_time_for_each_of_its_models(store: Store) -> None:
    keeper = ExperienceKeeper(store, FixedClock())
    keeper.note(ONE, MODEL, Outcome.DONE, items=1, total_ms=5.0, execute_us=1000)
    other = keeper.of(ONE, OTHER)
    assert (other.tries, other.good, other.item_us) == (1, 1.0, None)


def test_a_keeper_is_bounded(store: Store) -> None:
    keeper = ExperienceKeeper(store, FixedClock(), kept_max=6)
    for n in range(50):
        keeper.note(PeerId(f"p{n}"), MODEL, Outcome.DONE)
    keeper.write()
    assert len(keeper._known) == 6
    assert not keeper.knows(PeerId("p0"))
    assert keeper.knows(PeerId("p49"))


def test_a_late_answer_is_found_out(store: Store) -> None:
    keeper = ExperienceKeeper(store, FixedClock())
    for _ in range(6):
        keeper.note(ONE, MODEL, Outcome.DONE, items=1, total_ms=100.0, execute_us=1000)
    keeper.note(ONE, MODEL, Outcome.DONE, items=1, total_ms=5000.0, execute_us=1000)
    assert keeper.of(ONE, MODEL).bad == 0.5
