"""An operator's own pricing policy: found by its entry point, checked, and never the end of the node."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from cocoon_p2p.drivers.own_pricing import GuardedPricing, pricing_maker
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.policy.price import KeepsLevel, ListedPrice, Price, PriceFacts
from cocoon_p2p.policy.pricing import FixedPricing, FollowDemand

FACTS = PriceFacts(3, 0, 4, 4)
LISTED = ListedPrice(100, 10, 50, 400)

GOOD = """
    from cocoon_p2p.policy.price import Price

    class Own:
        def __init__(self, listed):
            self.listed, self.level = listed, 7

        def price(self, facts):
            base = self.listed.base * self.level
            return Price(base, 1, base + facts.items)

        def observe(self, utilisation):
            self.level += 1
            return True
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, *, value: str = "own_prices:Own") -> None:
    """A package as pip leaves it: its module, and beside it what its pyproject.toml says."""
    (folder / "own_prices.py").write_text(dedent(source))
    info = folder / "own_prices-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-prices\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[cocoon_p2p.pricing]\nown = {value}\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "own_prices", raising=False)


def made(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> GuardedPricing:
    install(folder, monkeypatch, source)
    policy = pricing_maker("own")(LISTED)
    assert isinstance(policy, GuardedPricing)
    return policy


def test_the_policies_of_the_project_need_no_package() -> None:
    assert isinstance(pricing_maker("fixed")(LISTED), FixedPricing)
    assert isinstance(pricing_maker("follow-demand")(LISTED), FollowDemand)


def test_an_own_policy_prices_moves_and_keeps_its_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = made(tmp_path, monkeypatch, GOOD)
    assert isinstance(policy, KeepsLevel)
    assert policy.price(FACTS) == Price(700, 1, 703)
    assert policy.observe(0.5)
    assert policy.level == 8
    policy.level = 2
    assert policy.price(FACTS) == Price(200, 1, 203)
    assert not policy.failed


def test_an_unknown_name_says_which_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as raised:
        pricing_maker("folow-demand")
    assert raised.value.hint == "did you mean 'follow-demand'?"
    install(tmp_path, monkeypatch, GOOD)
    with pytest.raises(ConfigError) as raised:
        pricing_maker("zzzz")
    assert raised.value.hint == "known: fixed, follow-demand, own"


@pytest.mark.parametrize(
    ("source", "value", "message"),
    [
        ("raise RuntimeError('no licence')", "own_prices:Own", "no licence: it cannot be loaded"),
        ("import a_module_that_is_nowhere", "own_prices:Own", "No module named 'a_module_that_is_nowhere'"),
        ("def other(): ...", "own_prices:Own", "has no attribute 'Own'"),
        ("Own = 7", "own_prices:Own", "is of type int"),
    ],
)
def test_a_package_that_does_not_load_is_named(
    source: str, value: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, source, value=value)
    with pytest.raises(ConfigError) as raised:
        pricing_maker("own")
    assert "the pricing policy 'own' of the package own-prices (own_prices:Own)" in raised.value.message
    assert message in raised.value.message
    assert raised.value.hint


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class Own:\n    def price(self, facts): ...", "it cannot be made"),
        ("def Own(listed): raise ValueError('too cheap for me')", "too cheap for me: it cannot be made"),
        ("def Own(listed): return 7", "has no method price()"),
        ("class Own:\n    def __init__(self, listed): ...\n    def price(self, facts): ...", "has no method observe()"),
    ],
)
def test_a_policy_that_cannot_be_made_is_named(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, source)
    with pytest.raises(ConfigError) as raised:
        pricing_maker("own")(LISTED)
    assert "own-prices" in raised.value.message
    assert message in raised.value.message
    assert "ListedPrice" in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ZeroDivisionError('one')", "ZeroDivisionError: one"),
        ("return None", "price() returned a NoneType"),
        ("return Price(1.5, 1, 4)", "base is a float"),
        ("return Price(-1, 1, 2)", "base is -1"),
        ("return Price(1, 1, 1)", "max_total is 1; it must be base + per_item x 3 items"),
    ],
)
def test_a_policy_that_fails_gives_way_to_the_listed_price_and_is_logged_once(
    body: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = dedent(GOOD).replace("base = self.listed.base * self.level", body)
    policy = made(tmp_path, monkeypatch, source)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert policy.price(FACTS) == Price(100, 10, 130)
    assert policy.failed
    assert not policy.observe(1.0)
    assert policy.level == 0
    assert said in caplog.text
    own = [each for each in caplog.records if "the listed price holds until" in each.getMessage()]
    assert len(own) == 1
    assert "own-prices" in own[0].getMessage()


@pytest.mark.parametrize(
    ("old", "new"),
    [("self.level += 1", "raise KeyError('u')"), ("self.listed, self.level = listed, 7", "self.listed = listed")],
)
def test_observing_and_levels_may_fail_or_be_missing_too(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = made(tmp_path, monkeypatch, dedent(GOOD).replace(old, new))
    policy.level = 3
    assert not policy.observe(0.2)
    assert policy.failed
    assert policy.price(FACTS) == Price(100, 10, 130)


@pytest.mark.parametrize("level", ["'high'", "1.5", "-3", "True", "2**70"])
def test_a_level_that_is_no_number_to_keep_is_not_kept(
    level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = made(tmp_path, monkeypatch, dedent(GOOD).replace("listed, 7", f"listed, {level}"))
    assert policy.level == 0
