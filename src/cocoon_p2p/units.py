"""Money and time as they are counted: integers of nanogram, integers of Unix milliseconds.

1 GRAM (the coin of The Open Network, formerly Toncoin) = 10⁹ nanogram. No money is ever a float.
"""

from __future__ import annotations

import re

NANOGRAM_PER_GRAM = 1_000_000_000
LOCAL_NETWORK_ID = 0
"""Global id of the `local` settlement network: play money. TON's mainnet is −239, its testnet −3."""

_GRAM_TEXT = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,9}))?\Z")


def format_gram(nanogram: int) -> str:
    """ "0.001 GRAM" for 1 000 000: exact, without trailing zeros."""
    sign = "-" if nanogram < 0 else ""
    whole, rest = divmod(abs(nanogram), NANOGRAM_PER_GRAM)
    decimals = f"{rest:09d}".rstrip("0")
    return f"{sign}{whole}{'.' + decimals if decimals else ''} GRAM"


def format_nanogram(nanogram: int) -> str:
    """ "1,000,000 nanogram"."""
    return f"{nanogram:,} nanogram"


def format_money(nanogram: int, *, network_id: int) -> str:
    """An amount as it is shown to people: play money always says so."""
    text = f"{format_nanogram(nanogram)} ({format_gram(nanogram)})"
    return f"{text}, test money, no value" if network_id == LOCAL_NETWORK_ID else text


def parse_gram(text: str) -> int:
    """Nanogram of a decimal amount of GRAM ("0.05"). Raises ValueError."""
    match = _GRAM_TEXT.match(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no amount of GRAM: digits, and at most nine decimals")
    return int(match[1]) * NANOGRAM_PER_GRAM + int((match[2] or "").ljust(9, "0"))
