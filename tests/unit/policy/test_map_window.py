from __future__ import annotations

from cocoon_p2p.policy.map_window import WINDOW_MIN, MapWindow


def test_it_doubles_until_somebody_is_busy_and_then_grows_slowly() -> None:
    window = MapWindow(256, adapts=True)
    assert window.size(0, 0) == WINDOW_MIN, "nobody is known yet"
    assert window.size(5, 320) == 10
    for _ in range(10):
        window.done()
    assert window.size(5, 320) == 20
    window.busy()
    assert window.size(5, 320) == 10
    for _ in range(9):
        window.done()
    assert window.size(5, 320) == 10
    for _ in range(3):
        window.done()
    assert window.size(5, 320) == 11


def test_it_is_never_below_one() -> None:
    window = MapWindow(256, adapts=True)
    window.size(8, 512)
    for _ in range(10):
        window.busy()
    assert window.size(8, 512) == 1


def test_bounds() -> None:
    window = MapWindow(20, adapts=True)
    assert window.size(100, 6400) == 20
    assert MapWindow(20, adapts=True).size(4, 6) == 6
    fixed = MapWindow(7, adapts=False)
    fixed.busy()
    fixed.done()
    assert fixed.size(100, 0) == 7
