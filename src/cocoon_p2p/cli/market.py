"""`cocoon-node market`: prices of the past, and the signed announcements behind them. Reads what a node left on the disk."""

from __future__ import annotations

import argparse
import difflib
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocoon_p2p.cli.api_client import connect
from cocoon_p2p.cli.charts import Chart, Point, terminal_charts, wants_colour
from cocoon_p2p.cli.market_files import open_market_file, write_market_file
from cocoon_p2p.cli.offers_text import UNITS, money_line, print_book, print_offers
from cocoon_p2p.cli.output import print_hint, print_json, print_note, printable, terminal_columns
from cocoon_p2p.cli.place import existing_home, home_option
from cocoon_p2p.cli.words import gram, short_id, short_peer
from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.home import Home
from cocoon_p2p.ids import ModelId, PeerId, Tier
from cocoon_p2p.limits import ANNOUNCEMENT_LIFETIME_S, JOURNAL_FLUSH_S
from cocoon_p2p.rows_market import sample_row

if TYPE_CHECKING:
    from cocoon_p2p.proto.market_replay import MarketReplay
    from cocoon_p2p.store.market_journal import MarketJournal, MarketSample

HOUR_MS = 3_600_000
LIFETIME_MS = int(ANNOUNCEMENT_LIFETIME_S * 1000)
REFUSALS = {
    "SIGNATURE": "not signed by the peer it speaks of",
    "EXPIRED": "not valid when it was heard",
    "BOUND": "out of bounds",
    "MALFORMED": "not an announcement",
    "EQUIVOCATION": "contradicts another one with the same number",
}


# --- history ---


def run_history(options: argparse.Namespace) -> int:
    """From the journal, whether a node runs or not."""
    home = existing_home(options)
    now_ms = int(time.time() * 1000)
    since_ms = now_ms - round(options.hours * HOUR_MS)
    if not home.market_file.exists():
        _say_no_history(home)
        if options.json:
            print_json({"model": options.model, "tier": options.tier, "samples": []})
        return 0
    with _journal(home) as journal:
        tier = Tier[options.tier.upper()]
        model_id, name = _sampled(journal, options.model, tier, since_ms)
        samples = journal.samples(model_id, tier, since_ms)
        unit = _unit_of(journal, model_id)
    chart = _chart(samples, name, options.tier, unit, since_ms=since_ms, now_ms=now_ms)
    if options.png:
        from cocoon_p2p.cli.charts_png import write_png

        write_png(chart, Path(options.png))
    if options.json:
        about = {"model_id": model_id, "name": name, "tier": options.tier, "unit": unit}
        print_json({**about, "from_ms": since_ms, "until_ms": now_ms, "samples": [sample_row(s) for s in samples]})
        return 0
    for line in terminal_charts(chart, terminal_columns(), colour=wants_colour(sys.stdout)):
        print(line)
    last = samples[-1]
    print_note(f"{_moment(last.at_ms)}: best {gram(last.best)}, median {gram(last.median)}")
    at = f"at {last.providers} provider{'' if last.providers == 1 else 's'}"
    print_note(f"{last.slots_free} of {last.slots_total} slots free {at}")
    if options.png:
        print_note(f"written to {options.png}")
    return 0


def _say_no_history(home: Home) -> None:
    print_note("no history here yet")
    print_hint(f"a node keeps it while it runs, unless [market] history_hours is 0: cocoon-node up{home_option(home)}")


def _journal(home: Home) -> MarketJournal:
    from cocoon_p2p.store.market_journal import open_market_journal

    return open_market_journal(home.market_file, read_only=True)


def _sampled(journal: MarketJournal, model: str, tier: Tier, since_ms: int) -> tuple[ModelId, str]:
    """The one model that is meant, of those seen in that time. Raises CocoonError (NO_MODEL), ConfigError when there are
    several."""
    known = journal.sampled(since_ms)
    meant = [each for each in known if model == each[1] or each[0] == model]
    meant = meant or [each for each in known if len(model) >= 6 and each[0].startswith(model)]
    ids = {model_id for model_id, _, _ in meant}
    if len(ids) > 1:
        listed = ", ".join(sorted(short_id(model_id) for model_id in ids))
        raise ConfigError(f"{model!r} stands for {len(ids)} models: {listed}", hint="give the beginning of the id")
    if not meant:
        names = sorted({name for _, name, _ in known})
        nearest = difflib.get_close_matches(model, names, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else f"seen: {', '.join(names[:8])}; longer ago: --hours"
        raise CocoonError(
            f"this node has seen no offers of {model!r} in that time",
            code="NO_MODEL",
            hint=hint if names else "prices are noted once a minute while the node runs; longer ago: --hours",
        )
    found = next((each for each in meant if each[2] is tier), None)
    if found is None:
        tiers = " or ".join(each[2].name.lower() for each in meant)
        raise CocoonError(
            f"nobody offered {printable(meant[0][1])} in the tier {tier.name.lower()}",
            code="NO_MODEL",
            hint=f"try --tier {tiers}",
        )
    return found[0], found[1]


def _unit_of(journal: MarketJournal, model_id: ModelId) -> str:
    """What the model's newest announcement asks its price for; samples do not say."""
    from cocoon_p2p.wire.capacity import SignedAnnouncement

    for raw in reversed(journal.latest()):
        for offer in SignedAnnouncement.decode(raw).announcement.offers:
            if offer.model_id == model_id:
                return offer.unit.name.lower()
    return "item"


def _chart(samples: list[MarketSample], name: str, tier: str, unit: str, *, since_ms: int, now_ms: int) -> Chart:
    points = tuple(
        Point(each.at_ms, each.best, each.median, each.slots_free, each.slots_total, each.providers) for each in samples
    )
    return Chart(
        title=f"{printable(name)} {short_id(samples[0].model_id)}, {tier}",
        unit=UNITS.get(unit, unit),
        points=points,
        from_ms=max(since_ms, points[0].at_ms),
        until_ms=max(now_ms, points[0].at_ms + 1),
    )


# --- export ---


def run_export(options: argparse.Namespace) -> int:
    """What the journal has; a node that runs writes it within seconds, so of its last moments nothing is told."""
    from cocoon_p2p.wire.market_file import FileEntry, FileHeader

    home, file = existing_home(options), Path(options.file)
    peer, runs = _who(home)
    until_ms = int(time.time() * 1000) - (round(2 * JOURNAL_FLUSH_S * 1000) if runs else 0)
    if not home.market_file.exists():
        raise CocoonError(
            f"no announcements are kept in {home.path}; no file was written",
            code="NO_HISTORY",
            hint=f"a node keeps them while it runs, unless [market] history_hours is 0: cocoon-node up{home_option(home)}",
        )
    with _journal(home) as journal:
        wanted_ms = until_ms - round(options.hours * HOUR_MS)
        first = next(journal.announcements(0, until_ms), None)
        from_ms = min(until_ms, max(wanted_ms, first[0] if first else until_ms))

        def entries() -> Iterator[FileEntry]:
            for heard_at_ms, raw in journal.announcements(from_ms - LIFETIME_MS, until_ms):
                yield FileEntry(heard_at_ms, raw)

        if next(entries(), None) is None:
            raise CocoonError(
                "nothing was heard in that time; no file was written",
                code="NO_HISTORY",
                hint="longer ago: --hours; announcements are kept while the node runs, unless [market] history_hours is 0",
            )
        count = write_market_file(file, FileHeader(peer, from_ms, until_ms), entries())
    row = {"file": str(file), "announcements": count, "peer_id": peer, "from_ms": from_ms, "until_ms": until_ms,
           "bytes": file.stat().st_size}  # fmt: skip
    if options.json:
        print_json(row)
    else:
        print_note(f"{count:,} announcements, {_moment(from_ms)} to {_moment(until_ms)}, written to {file}")
        print_note(f"anybody can check them: cocoon-node market replay {file}")
    return 0


def _who(home: Home) -> tuple[PeerId, bool]:
    """Whose journal it is, and whether that node runs."""
    api = connect(home.api_socket())
    if api is None:
        return home.identity().peer_id, False
    return PeerId(api.get("/v1/status")["peer_id"]), True


# --- replay ---


def run_replay(options: argparse.Namespace) -> int:
    """The book as the exporting node made it, from nothing but signed announcements."""
    from cocoon_p2p.proto.market_replay import MarketReplay

    file = Path(options.file)
    with open_market_file(file) as (header, entries):
        at_ms = header.until_ms if options.at is None else options.at
        if not header.from_ms <= at_ms <= header.until_ms:
            raise ConfigError(
                f"{file} tells of {_moment(header.from_ms)} to {_moment(header.until_ms)}, not of {_moment(at_ms)}",
                hint="give a time between them: --at TIME",
            )
        replay = MarketReplay(header.peer_id, at_ms)
        for entry in entries:
            replay.hear(entry)
    answer = _rows_of(replay, at_ms, options.model)
    counts = {"applied": replay.applied, "refused": dict(sorted(replay.refused.items())), "later": replay.later}
    if options.json:
        heard = {"peer_id": header.peer_id, "from_ms": header.from_ms, "until_ms": header.until_ms, "at_ms": at_ms}
        print_json({**answer, **heard, "announcements": counts})
        return 0
    if not answer["offers"]:
        print_note(f"nobody offered {'anything' if options.model is None else repr(options.model)} then")
    elif options.model is None:
        print_book(answer["book"])
    else:
        print_offers(answer["book"], answer["offers"])
    if answer["offers"]:
        print_note(money_line(answer, each_offer=options.model is not None))
    print_note(f"the market of {_moment(at_ms)}, as {short_peer(header.peer_id)} heard of it")
    _say_counts(replay)
    return 0


def _rows_of(replay: MarketReplay, at_ms: int, model: str | None) -> dict[str, Any]:
    from cocoon_p2p.rows_market import market_rows

    return market_rows(replay.offers(model), now_ms=at_ms)


def _say_counts(replay: MarketReplay) -> None:
    refused: Counter[str] = replay.refused
    later = f", {replay.later:,} are of later" if replay.later else ""
    print_note(f"{replay.applied:,} announcements, each with a good signature{later}; {refused.total():,} refused")
    for code, count in sorted(refused.items()):
        print_note(f"refused: {count:,} {REFUSALS.get(code, code)} ({code})")


def _moment(unix_ms: int) -> str:
    """Local time."""
    try:
        return datetime.fromtimestamp(unix_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z").strip()
    except (OverflowError, OSError, ValueError):
        return f"{unix_ms} ms"
