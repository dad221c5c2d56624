"""Numbers and identifiers as people read them."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cocoon_p2p.net.addresses import parse_address
from cocoon_p2p.units import LOCAL_NETWORK_ID, format_gram

TEST_MONEY = "test money, no value"
_PEER_ID = re.compile(r"12D3KooW[1-9A-HJ-NP-Za-km-z]{44}")
_WIDTHS = ("public", "local", "relay", "loopback")


def short_peer(peer_id: Any) -> str:
    """ "12D3…u8Yd1x": the beginning is the same for all, so it is the end that tells peers apart."""
    text = str(peer_id or "-")
    return text if len(text) <= 14 else f"{text[:4]}…{text[-6:]}"


def short_id(identifier: Any, chars: int = 8) -> str:
    """The first digits of a job or model id."""
    return str(identifier or "-")[:chars]


def gram(nanogram: Any) -> str:
    return "-" if nanogram is None else format_gram(int(nanogram))


def price(base: Any, per_item: Any, *, tokens: bool = False) -> str:
    """ "0.0001 GRAM a job + 0.00001 GRAM an item", or a token."""
    return f"{gram(base)} a job + {gram(per_item)} {'a token' if tokens else 'an item'}"


def money_note(network_id: Any) -> str:
    """What the money of a settlement network is."""
    return TEST_MONEY if network_id in (None, LOCAL_NETWORK_ID) else f"settlement network {network_id}"


def milliseconds(value: Any) -> str:
    """ "<0.1 ms", "3.2 ms", "1.25 s"."""
    if value is None:
        return "-"
    if 0 < value < 0.1:
        return "<0.1 ms"
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.1f} ms"


def duration(seconds: float) -> str:
    """ "42 s", "3 min", "5 h", "12 d": one unit, rounded down."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def age(unix_ms: Any, *, now_s: float | None = None) -> str:
    """How long ago a moment was."""
    if unix_ms is None:
        return "-"
    return duration((time.time() if now_s is None else now_s) - unix_ms / 1000)


def short_until(unix_ms: Any, *, now_s: float | None = None) -> str:
    """How long it is until a moment, rounded up so that "2 h" is what was asked for."""
    left_s = unix_ms / 1000 - (time.time() if now_s is None else now_s)
    return duration(left_s + 1.0)


def size(count: Any) -> str:
    """ "512 B", "90.4 MB": powers of ten."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def short_size(count: Any) -> str:
    """The same in five characters: "512", "34k", "1.2M"."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("", "k", "M"):
        if value < 999.5:
            return f"{value:.0f}{unit}" if value >= 9.95 or not unit else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f}G" if value < 9.95 else f"{value:.0f}G"


def spec(tensor: Mapping[str, Any]) -> str:
    """ "input_ids int64[?,128]": a tensor; dimensions that may vary are question marks."""
    shape = tensor.get("shape")
    dims = "…" if shape is None else ",".join("?" if dim in (-1, None) else str(dim) for dim in shape)
    return f"{tensor.get('name')} {tensor.get('dtype')}[{dims}]"


def best_address(addresses: Sequence[str]) -> str | None:
    """The address to hand to others: one that is not this machine's loopback, if there is one."""
    return next(iter(widest_first(addresses)), None)


def widest_first(addresses: Sequence[str]) -> list[str]:
    """Public addresses, then those of the local network, those through relays, and last this machine's own."""
    return sorted(addresses, key=lambda address: _WIDTHS.index(width_of(address)))


def width_of(address: str) -> str:
    """From how far away an address works: "public", "local", "relay" or "loopback"."""
    try:
        parsed = parse_address(address)
    except ValueError:  # of a newer version
        return "local"
    if parsed.relay is not None:
        return "relay"
    return "public" if parsed.is_public else "loopback" if parsed.is_loopback else "local"


def short_ids(text: Any) -> str:
    """A sentence with the peer ids in it shortened."""
    return _PEER_ID.sub(lambda match: short_peer(match[0]), str(text))


def damaged_text(rows: Mapping[str, int]) -> str:
    """What was set aside of a node's database, by table."""
    several = ", ".join(f"{count} of {table}" for table, count in sorted(rows.items()))
    return f"rows that could not be read were set aside: {several}"
