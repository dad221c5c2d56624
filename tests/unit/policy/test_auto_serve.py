"""Which models are picked up, and which go: what one peer says moves nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.ids import ModelId
from cocoon_p2p.limits import AUTO_SERVE_HALF_LIFE_S, AUTO_SERVE_KEEP_S, AUTO_SERVE_MODELS_MAX
from cocoon_p2p.policy.auto_serve import Demand, ModelOnOffer, PickedUp, Shortage, fits_meanwhile, ranked, victims

A, B, C = (ModelId(letter * 64) for letter in "abc")
HOUR = 3600.0


def test_asks_of_many_subnets_count_and_fade() -> None:
    demand = Demand()
    for number in range(6):
        demand.asked(A, f"192.0.{number}.0/24", 0.0)
    assert demand.scores(0.0) == {A: 6.0}
    assert demand.scores(AUTO_SERVE_HALF_LIFE_S) == {A: 3.0}
    assert demand.scores(100 * HOUR) == {}


def test_one_subnet_decides_nothing_however_often_it_asks() -> None:
    demand = Demand()
    for second in range(10_000):
        demand.asked(A, "192.0.2.0/24", float(second))
    assert demand.scores(10_000.0) == {}
    demand.asked(A, "198.51.100.0/24", 10_000.0)
    demand.asked(A, "203.0.113.0/24", 10_000.0)
    assert demand.scores(10_000.0)[A] <= 5.0


def test_a_flood_of_models_is_bounded() -> None:
    demand = Demand()
    for number in range(5 * AUTO_SERVE_MODELS_MAX):
        for subnet in "xyz":
            demand.asked(ModelId(f"{number:064x}"), subnet, 0.0)
    assert len(demand.scores(0.0)) == AUTO_SERVE_MODELS_MAX


def on_offer(subnet: str, *, full: bool = False, price: int = 100) -> ModelOnOffer:
    return ModelOnOffer(A, subnet, full, price)


def test_a_model_is_short_when_all_who_have_it_are_full() -> None:
    shortage = Shortage()
    assert shortage.scores([on_offer(each, full=True) for each in "xyz"]) == {A: 3.0}
    assert shortage.scores([on_offer("x", full=True), on_offer("y", full=True), on_offer("z")]) == {}
    assert shortage.scores([on_offer("x", full=True) for _ in range(50)]) == {}


def test_a_model_is_short_when_it_costs_twice_what_it_did() -> None:
    shortage = Shortage()
    assert shortage.scores([on_offer(each) for each in "xyz"]) == {}
    assert shortage.scores([on_offer(each, price=199) for each in "xyz"]) == {}
    assert shortage.scores([on_offer(each, price=200) for each in "wxyz"]) == {A: 4.0}
    # One who asks next to nothing, and one who asks for a fortune, move nothing.
    shortage = Shortage()
    assert shortage.scores([on_offer("x", price=1), on_offer("y"), on_offer("z")]) == {}
    assert shortage.scores([on_offer("x", price=10**9), on_offer("y"), on_offer("z")]) == {}


def test_the_most_wanted_comes_first_and_the_same_facts_give_the_same() -> None:
    assert ranked({A: 3.0, B: 4.0, C: 1.0}, {A: 3.0}, {}) == [(A, 6.0), (B, 4.0)]
    assert ranked({A: 3.0, B: 3.0}, {}, {}) == ranked({B: 3.0, A: 3.0}, {}, {}) == [(A, 3.0), (B, 3.0)]
    assert ranked({A: 3.0, B: 4.0}, {}, {B}) == [(A, 3.0)]


def picked(model_id: ModelId, size: int, used_at: float, *, picked_at: float = 0.0) -> PickedUp:
    return PickedUp(model_id, size, picked_at, used_at)


def test_the_least_recently_used_goes_first() -> None:
    here = [picked(A, 10, 3 * HOUR), picked(B, 10, HOUR), picked(C, 10, 2 * HOUR)]
    now = 10 * HOUR
    assert victims(here, 5, 35, now=now, is_busy=lambda i: False) == []
    assert victims(here, 10, 35, now=now, is_busy=lambda i: False) == [B]
    assert victims(here, 25, 35, now=now, is_busy=lambda i: False) == [B, C]
    assert victims(here, 10, 35, now=now, is_busy=lambda i: i == B) == [C]
    assert victims(here, 36, 35, now=now, is_busy=lambda i: False) is None


def test_what_is_to_go_may_stay_meanwhile_within_a_quarter_more() -> None:
    here = [picked(A, 40, HOUR), picked(B, 40, HOUR)]
    assert fits_meanwhile(here, 45, 100) and not fits_meanwhile(here, 46, 100)


@given(
    sizes=st.lists(st.integers(1, 50), max_size=8),
    needed=st.integers(1, 100),
    budget=st.integers(1, 200),
    data=st.data(),
)
def test_whatever_goes_makes_room_and_is_old(sizes: list[int], needed: int, budget: int, data: st.DataObject) -> None:
    now = 100 * HOUR
    used = data.draw(st.lists(st.floats(0, now), min_size=len(sizes), max_size=len(sizes)))
    here = [picked(ModelId(f"{i:064x}"), size, at) for i, (size, at) in enumerate(zip(sizes, used, strict=True))]
    going = victims(here, needed, budget, now=now, is_busy=lambda i: False)
    if going is None:
        old = [each for each in here if now - each.used_at >= AUTO_SERVE_KEEP_S]
        assert sum(sizes) - sum(each.size for each in old) + needed > budget
    else:
        left = [each for each in here if each.model_id not in going]
        assert sum(each.size for each in left) + needed <= budget
        assert all(now - each.used_at >= AUTO_SERVE_KEEP_S for each in here if each.model_id in going)
