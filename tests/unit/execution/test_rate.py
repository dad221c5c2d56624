from __future__ import annotations

from cocoon_p2p.execution.rate import RateMeter
from cocoon_p2p.limits import RATE_KEPT_S, RATE_WINDOW_S


def test_the_best_span_counts_and_is_forgotten() -> None:
    meter = RateMeter()
    assert meter.best_items_s(5.0) == 0
    meter.add(30, 1.0)
    meter.add(20, 9.9)
    meter.add(40, 10.0)
    assert meter.best_items_s(10.0) == 50 / RATE_WINDOW_S
    meter.add(20, 19.0)
    assert meter.best_items_s(19.0) == 60 / RATE_WINDOW_S
    assert meter.best_items_s(10 + RATE_KEPT_S - 0.1) == 60 / RATE_WINDOW_S
    assert meter.best_items_s(10 + RATE_KEPT_S) == 0


def test_it_keeps_no_more_spans_than_it_tells_about() -> None:
    meter = RateMeter()
    for tick in range(10_000):
        meter.add(1, float(tick))
    assert meter.best_items_s(10_000.0) == 1.0
    assert len(meter._spans) <= RATE_KEPT_S / RATE_WINDOW_S
