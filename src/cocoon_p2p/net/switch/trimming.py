"""Which connections go when there are too many. Pure.

What carries a job, or is protected (links.PROTECTING), stays. Of the others, first those whose peer has said that it leaves
and stays, then those that double another connection, then relayed ones, then those to peers that are not near to us in the DHT, and among them those that were used longest ago.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cocoon_p2p.net.switch.links import Link

_Usefulness = tuple[bool, bool, bool, bool, bool, bool, bool, float]


def usefulness(link: Link, *, is_double: bool) -> _Usefulness:
    """The smaller, the sooner it goes."""
    return (
        link.application_streams > 0,
        link.is_protected,
        not link.connection.is_over,
        not is_double,
        not link.relayed,
        "neighbour" in link.tags,
        not link.is_idle,
        link.used_at,
    )


def expendable(
    links: Iterable[Link],
    now: float,
    *,
    surplus: int,
    grace_s: float,
    is_double: Callable[[Link], bool],
    spares: bool = True,
) -> list[Link]:
    """Up to `surplus` links to close, the least useful first. Those younger than `grace_s`, with jobs or protected are not
    among them, unless `spares` is False: then they come last."""
    candidates = [
        link
        for link in links
        if not spares or not (link.application_streams or link.is_protected or now - link.connected_at < grace_s)
    ]
    candidates.sort(key=lambda link: usefulness(link, is_double=is_double(link)))
    return candidates[: max(surplus, 0)]


def idle_leftovers(
    links: Iterable[Link], best: Callable[[Link], Link | None], now: float, grace_s: float
) -> list[Link]:
    """Links that nobody uses, and on which nothing can be opened any more, or which stand beside a better one to the same
    peer. Both ends call the same one better, so that they do not close one each."""
    idle = (link for link in links if link.is_idle and now - link.connected_at >= grace_s)
    return [link for link in idle if link.connection.is_over or best(link) not in (None, link)]
