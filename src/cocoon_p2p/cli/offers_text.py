"""The market as tables: the order book, the offers of one model, and what to do where there is nothing.

A table that is too wide first loses the columns that say nothing, and then those that say least.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cocoon_p2p.cli.output import GAP, Column, paint, printable, table, terminal_columns
from cocoon_p2p.cli.words import duration, gram, money_note, short_id, short_peer, short_size

Row = Mapping[str, Any]
Mark = Callable[[tuple[Any, ...], int], str]
"""What to put behind a price: an arrow when it has moved. The key says whose price it is."""

UP, DOWN = "↑", "↓"
ELASTIC_COLUMNS = 14
"""A name is shortened to this before a column goes."""
COUNT_MAX = 99_999
"""Greater numbers are shortened: nobody has so many slots, and whoever says so shall not blow up the table."""
NAMES_SHOWN_MAX = 8
TITLE_NAME_CHARS_MAX = 20
BOOK_COLUMNS = (
    Column("MODEL", elastic=True),
    Column("ID"),
    Column("TIER"),
    Column("OFFERS", right=True),
    Column("FREE", right=True),
    Column("BEST", right=True),
    Column("MEDIAN", right=True),
    Column("FASTEST", right=True),
    Column("DEVICES", elastic=True),
    Column("AGE", right=True),
)
BOOK_DROPPED = ("ID", "DEVICES", "AGE", "FASTEST")
"""What a narrow terminal goes without, the first first. Several models of one name keep their ids."""
OFFER_COLUMNS = (
    Column("PROVIDER"),
    Column("A JOB", right=True),
    Column("AN ITEM", right=True),
    Column("FREE", right=True),
    Column("QUEUE", right=True),
    Column("LATENCY", right=True),
    Column("RELIABLE", right=True),
    Column("DEVICE", elastic=True),
    Column("SPEED", right=True),
    Column("REGION", elastic=True),
    Column("AGE", right=True),
)
OFFER_DROPPED = ("REGION", "DEVICE", "QUEUE", "AGE", "SPEED")
UNITS = {"item": "item", "token": "token", "gpu_ms": "GPU ms"}
_MOVED = re.compile(rf"\S+(?P<arrow>[{UP}{DOWN}])")


def no_mark(key: tuple[Any, ...], price: int) -> str:
    return ""


def book_lines(book: Sequence[Row], width: int, mark: Mark = no_mark) -> list[str]:
    """The order book: a line for each model and tier."""
    ids: dict[Any, set[Any]] = {}
    for row in book:
        ids.setdefault(row["name"], set()).add(row["model_id"])
    ambiguous = any(len(found) > 1 for found in ids.values())
    dropped = [title for title in BOOK_DROPPED if not (ambiguous and title == "ID")]
    return _fitted(BOOK_COLUMNS, [_book_cells(row, mark) for row in book], dropped, width)


def offer_lines(
    book: Sequence[Row], offers: Sequence[Row], width: int, mark: Mark = no_mark
) -> list[tuple[str, list[str]]]:
    """For each model, unit and tier: a title, and its offers, the cheapest first. Tiers whose offers are the same in all
    that is shown go together."""
    sections: list[tuple[list[Row], list[list[Any]]]] = []
    for line in book:
        mine = [offer for offer in offers if _belongs(offer, line)]
        mine.sort(key=lambda offer: (_one_unit(offer, line["tier"]), offer["peer_id"]))
        cells = [_offer_cells(offer, line["tier"], mark) for offer in mine]
        before = next((each for each in sections if _same_model(each[0][0], line) and each[1] == cells), None)
        if before is None:
            sections.append(([line], cells))
        else:
            before[0].append(line)
    return [
        (_section_title(lines), _fitted(_offer_columns(lines[0]["unit"]), cells, OFFER_DROPPED, width))
        for lines, cells in sections
    ]


def print_book(book: Sequence[Row]) -> None:
    """On stdout, the titles painted."""
    _print_lines(book_lines(book, terminal_columns()))


def print_offers(book: Sequence[Row], offers: Sequence[Row]) -> None:
    for number, (title, lines) in enumerate(offer_lines(book, offers, terminal_columns())):
        print(f"\n{title}" if number else title)
        _print_lines(lines)


def painted(line: str) -> str:
    """A line in which prices that rose are yellow and those that fell green."""
    return _MOVED.sub(lambda match: paint(match[0], "yellow" if match["arrow"] == UP else "green", sys.stdout), line)


def money_line(answer: Row, *, each_offer: bool) -> str:
    """The remark below a table: what the numbers are."""
    networks = {offer.get("settlement_network") for offer in answer.get("offers") or ()}
    units = {UNITS.get(row["unit"], str(row["unit"])) for row in answer.get("book") or ()}
    per = "prices in GRAM" if each_offer else f"GRAM for a job of one {' or '.join(sorted(units))}"
    return f"{per} ({', '.join(sorted({money_note(network) for network in networks}))})"


def nothing_lines(empty: Row, model: str | None, tier: str | None) -> tuple[str, str]:
    """(what is the matter, what to do) when nothing is on offer."""
    peers = int(empty.get("peers") or 0)
    others = [str(name) for name in empty.get("others") or ()]
    connected = f"you are connected to {peers} peer{'' if peers == 1 else 's'}"
    match empty.get("reason"):
        case "NOT_CONNECTED":
            return (
                f"no offers: {connected}, so nobody can tell of any",
                "cocoon-node status says why; enter a network: cocoon-node join INVITE, or up --bootstrap MULTIADDR",
            )
        case "ONLY_SELF":
            own = ", ".join(map(str, empty.get("own") or ()))
            return (
                f"no offers: {connected}, and only this node itself serves a model ({own})",
                "a node does not buy from itself; others see its offers: cocoon-node offers on another machine",
            )
        case "TIER":
            return f"nobody offers {_what(model)} in the tier {tier}", "leave out --tier to see the other tiers"
        case "MODEL":
            nearest = difflib.get_close_matches(model or "", others, n=1, cutoff=0.5)
            shown = ", ".join(others[:NAMES_SHOWN_MAX]) + (" …" if len(others) > NAMES_SHOWN_MAX else "")
            return (
                f"nobody offers {_what(model)}",
                f"did you mean {nearest[0]}?" if nearest else f"on offer: {shown}; names and ids: cocoon-node offers",
            )
    return (
        f"no offers: {connected}, but nobody serves a model",
        "be the first: cocoon-node models add PATH, and `serve = true` in node.toml; or enter another network: "
        "cocoon-node join INVITE",
    )


def change_texts(answer: Row, each_offer: bool) -> dict[tuple[Any, ...], str]:
    """One text for each line of the book, or for each offer and tier, without what changes by itself: by these texts one
    sees what is new, other, or gone."""
    if not each_offer:
        return {
            (row["model_id"], row["tier"], row["unit"]): f"{printable(row['name'])} {row['tier']}: "
            f"{_count(row['providers'])} offer{'' if row['providers'] == 1 else 's'}, {_free(row)} free, "
            f"best {_price(row['best_nanogram'])}, median {_price(row['median_nanogram'])}"
            for row in answer["book"]
        }
    return {
        (offer["peer_id"], offer["model_id"], tier): f"{short_peer(offer['peer_id'])} {tier}: "
        f"{_price(price['base_nanogram'])} a job, {_price(price['per_unit_nanogram'])} on top for each "
        f"{UNITS.get(offer['unit'], offer['unit'])}, {_free(offer)} free, queue {short_ms(offer['queue_ms'])}"
        for offer in answer["offers"]
        for tier, price in offer["prices"].items()
    }


def _what(model: str | None) -> str:
    return "a model" if model is None else repr(printable(model))


def _print_lines(lines: Sequence[str]) -> None:
    print(paint(lines[0], "bold", sys.stdout))
    for line in lines[1:]:
        print(line)


def _fitted(columns: Sequence[Column], rows: Sequence[Sequence[Any]], dropped: Sequence[str], width: int) -> list[str]:
    """The lines of a table without the columns of `dropped` for which there is no room."""
    silent = [c.title for i, c in enumerate(columns) if c.title in dropped and all(row[i] == "-" for row in rows)]
    kept = list(range(len(columns)))
    for title in dict.fromkeys((*(t for t in dropped if t in silent), *dropped)):
        if _natural_width([columns[i] for i in kept], [[row[i] for i in kept] for row in rows]) <= width:
            break
        kept = [i for i in kept if columns[i].title != title]
    return table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows], width=width)


def _natural_width(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> int:
    widths = [max([len(c.title), *(len(str(row[i])) for row in rows)]) for i, c in enumerate(columns)]
    widths = [min(width, ELASTIC_COLUMNS) if c.elastic else width for c, width in zip(columns, widths, strict=True)]
    return sum(widths) + GAP * (len(columns) - 1)


def _book_cells(row: Row, mark: Mark) -> list[Any]:
    key = (row["model_id"], row["tier"], row["unit"])
    best, median = row["best_nanogram"], row["median_nanogram"]
    return [
        row["name"],
        short_id(row["model_id"]),
        row["tier"],
        _count(row["providers"]),
        _free(row),
        _price(best) + mark((*key, "best"), best),
        _price(median) + mark((*key, "median"), median),
        short_ms(row["fastest_ms"]),
        _devices(row["devices"]),
        _age(row["age_ms"]),
    ]


def _offer_columns(unit: str) -> list[Column]:
    per = f"A{'N' if unit == 'item' else ''} {UNITS.get(unit, unit).upper()}"
    return [Column(per, right=True) if column.title == "AN ITEM" else column for column in OFFER_COLUMNS]


def _offer_cells(offer: Row, tier: str, mark: Mark) -> list[Any]:
    price = offer["prices"][tier]
    base, per_unit = price["base_nanogram"], price["per_unit_nanogram"]
    key = (offer["peer_id"], offer["model_id"], tier)
    return [
        short_peer(offer["peer_id"]),
        _price(base) + mark((*key, "base"), base),
        _price(per_unit) + mark((*key, "per_unit"), per_unit),
        _free(offer),
        short_ms(offer["queue_ms"]),
        short_ms(offer.get("latency_ms")),
        reliable(offer),
        offer.get("device") or "-",
        _speed(offer.get("throughput_items_s")),
        offer.get("region") or "-",
        _age(offer["age_ms"]),
    ]


def _section_title(lines: Sequence[Row]) -> str:
    line = lines[0]
    tiers = " or ".join(each["tier"] for each in lines)
    unit = UNITS.get(line["unit"], line["unit"])
    name = printable(line["name"])
    name = name if len(name) <= TITLE_NAME_CHARS_MAX else f"{name[: TITLE_NAME_CHARS_MAX - 1]}…"
    count = line["providers"]
    return (
        f"{name} {short_id(line['model_id'])}, {tiers}: {_count(count)} offer{'' if count == 1 else 's'}, "
        f"{_free(line)} free, one {unit} from {_price(line['best_nanogram'])}"
    )


def _belongs(offer: Row, line: Row) -> bool:
    return _same_model(offer, line) and line["tier"] in offer["prices"]


def _same_model(one: Row, other: Row) -> bool:
    return bool(one["model_id"] == other["model_id"] and one["unit"] == other["unit"])


def _one_unit(offer: Row, tier: str) -> int:
    price = offer["prices"][tier]
    return int(price["base_nanogram"]) + int(price["per_unit_nanogram"])


def reliable(offer: Row) -> str:
    """ "98% (41)": the share of our own jobs there that went well, and how many we gave it; "new" before the first."""
    tries, share = offer.get("tries") or 0, offer.get("reliability")
    return "new" if not tries or share is None else f"{100 * share:.0f}% ({_count(tries)})"


def short_ms(value: Any) -> str:
    """ "<0.1ms", "0.4ms", "12ms", "1.3s", "3min"."""
    if value is None:
        return "-"
    if value >= 60_000:
        return duration(value / 1000).replace(" ", "")
    if value >= 1000:
        return f"{value / 1000:.1f}s"
    if 0 < value < 0.1:
        return "<0.1ms"
    return f"{value:.1f}ms" if 0 < value < 10 else f"{value:.0f}ms"


def _speed(items_s: float | None) -> str:
    """ "1.3/s", "5.1k/s": items a second, as the provider measured them."""
    if not items_s:
        return "-"
    return f"{items_s:.1f}/s" if items_s < 10 else f"{short_size(items_s)}/s"


def _age(age_ms: Any) -> str:
    return duration(age_ms / 1000).replace(" ", "")


def _price(nanogram: int) -> str:
    return gram(nanogram).removesuffix(" GRAM")


def _free(row: Row) -> str:
    return f"{_count(row['slots_free'])}/{_count(row['slots_total'])}"


def _count(number: int) -> str:
    return str(number) if number <= COUNT_MAX else short_size(number)


def _devices(devices: Mapping[str, int]) -> str:
    if len(devices) == 1:
        return next(iter(devices))
    return " ".join(f"{count} {device}" for device, count in devices.items()) or "-"
