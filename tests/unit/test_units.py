from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.units import format_gram, format_money, format_nanogram, parse_gram


@pytest.mark.parametrize(
    ("nanogram", "text"),
    [
        (0, "0 GRAM"),
        (1, "0.000000001 GRAM"),
        (1_000_000, "0.001 GRAM"),
        (10**9, "1 GRAM"),
        (1_500_000_000, "1.5 GRAM"),
        (-250_000_000, "-0.25 GRAM"),
        (2**63 - 1, "9223372036.854775807 GRAM"),
    ],
)
def test_amounts_are_exact(nanogram: int, text: str) -> None:
    assert format_gram(nanogram) == text


@given(st.integers(0, 2**63 - 1))
def test_there_and_back(nanogram: int) -> None:
    assert parse_gram(format_gram(nanogram).removesuffix(" GRAM")) == nanogram


@pytest.mark.parametrize(
    ("text", "nanogram"), [("0", 0), ("0.05", 50_000_000), (" 2 ", 2 * 10**9), ("1.000000001", 1_000_000_001)]
)
def test_typed_amounts(text: str, nanogram: int) -> None:
    assert parse_gram(text) == nanogram


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1.", ".5", "1e9", "1,5", "0.0000000001", "1 GRAM", "nan", "0x1", "1_0"]
)
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="no amount of GRAM"):
        parse_gram(text)


def test_play_money_says_so() -> None:
    assert format_nanogram(1_000_000) == "1,000,000 nanogram"
    assert format_money(1_000_000, network_id=0) == "1,000,000 nanogram (0.001 GRAM), test money, no value"
    assert format_money(1_000_000, network_id=-239) == "1,000,000 nanogram (0.001 GRAM)"
