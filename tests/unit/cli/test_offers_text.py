"""The market as tables: what is in them, and what they lose on a narrow terminal."""

from __future__ import annotations

import pytest
from market_answers import LLAMA, MINILM, PEERS, answer, line, offer

from cocoon_p2p.cli.offers import show
from cocoon_p2p.cli.offers_text import (
    book_lines,
    change_texts,
    money_line,
    nothing_lines,
    offer_lines,
    reliable,
    short_ms,
)

WIDTHS = (60, 80, 100, 120)


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_the_book_on_a_wide_terminal() -> None:
    book = [line(devices={"cpu": 2, "gpu": 1}, providers=3), line("open", fastest_ms=None)]
    assert book_lines(book, 120) == [
        "MODEL   ID        TIER    OFFERS   FREE     BEST   MEDIAN  FASTEST  DEVICES      AGE",
        "minilm  3b5a1c2d  sealed       3  31/32  0.00011  0.00012    3.2ms  2 cpu 1 gpu  12s",
        "minilm  3b5a1c2d  open         1  31/32  0.00011  0.00012        -  cpu          12s",
    ]


def test_a_narrow_book_goes_without_ids_unless_they_are_needed() -> None:
    book = [line(name="a-model-with-a-long-name-indeed"), line("open")]
    for width in WIDTHS:
        assert max(map(len, book_lines(book, width))) <= width
    assert "MODEL" in book_lines(book, 60)[0]
    assert " ID " not in book_lines(book, 80)[0]
    one_name = [line(), line(model_id=LLAMA)]
    for width in WIDTHS:
        assert "77aa1c2d" in book_lines(one_name, width)[2], "two models of one name"


def test_offers_of_a_model_are_sorted_by_price() -> None:
    dear = {"base_nanogram": 150_000, "per_unit_nanogram": 7_000}
    cheap = {"base_nanogram": 60_000, "per_unit_nanogram": 25_000}
    offers = [
        offer(0, tries=0, reliability=None, latency_ms=None),
        offer(1, prices={"sealed": dear}, region=None, throughput_items_s=0),
        offer(2, prices={"sealed": cheap}, device="cuda:0", queue_ms=61_000),
    ]
    ((title, lines),) = offer_lines([line(providers=3, best_nanogram=85_000)], offers, 120)
    assert title == "minilm 3b5a1c2d, sealed: 3 offers, 31/32 free, one item from 0.000085"
    assert lines == [
        "PROVIDER       A JOB   AN ITEM   FREE  QUEUE  LATENCY  RELIABLE  DEVICE  SPEED  REGION  AGE",
        "12D3…sQxGcu  0.00006  0.000025  31/32   1min    0.4ms  98% (41)  cuda:0  123/s  de      12s",
        "12D3…Dz8e6N   0.0001   0.00001  31/32  150ms        -       new  cpu     123/s  de      12s",
        "12D3…VHQ7He  0.00015  0.000007  31/32  150ms    0.4ms  98% (41)  cpu         -  -       12s",
    ]


def test_columns_that_say_nothing_go_first() -> None:
    silent = [offer(number, region=None, throughput_items_s=0) for number in range(3)]
    ((_, lines),) = offer_lines([line()], silent, 80)
    assert "DEVICE" in lines[0]
    assert "SPEED" not in lines[0]
    assert "REGION" not in lines[0]
    for width in WIDTHS:
        ((_, lines),) = offer_lines([line()], [offer(number) for number in range(3)], width)
        assert max(map(len, lines)) <= width
        assert {"PROVIDER", "FREE", "LATENCY", "RELIABLE"} <= set(lines[0].split())


def test_tiers_go_together_when_they_cost_the_same() -> None:
    book = [line("sealed"), line("open")]
    ((title, _),) = offer_lines(book, [offer()], 80)
    assert title.startswith("minilm 3b5a1c2d, sealed or open: 1 offer, ")
    apart = offer(prices={t: {"base_nanogram": n, "per_unit_nanogram": 0} for t, n in (("open", 1), ("sealed", 2))})
    titles = [title for title, _ in offer_lines(book, [apart], 80)]
    assert [title.partition(":")[0] for title in titles] == ["minilm 3b5a1c2d, sealed", "minilm 3b5a1c2d, open"]


def test_units_are_named() -> None:
    by_token = {"unit": "token", "model_id": LLAMA, "name": "llama"}
    ((title, lines),) = offer_lines([line(**by_token)], [offer(**by_token)], 120)
    assert "one token from" in title
    assert "A TOKEN" in lines[0]
    assert money_line(answer(book=[line(**by_token), line()]), each_offer=False) == (
        "GRAM for a job of one item or token (test money, no value)"
    )


def test_what_others_say_cannot_break_the_table() -> None:
    wild = {
        "name": "\x1b[2Jmini\nlm", "slots_free": 2**32 - 1, "slots_total": 2**32 - 1, "device": "cpu\r\x07",
        "region": "de\x1b[31m", "throughput_items_s": 9.2e15, "queue_ms": 2**32 - 1,
    }  # fmt: skip
    ((title, lines),) = offer_lines([line(name=wild["name"])], [offer(**wild)], 120)
    text = "\n".join([title, *lines, *book_lines([line(name=wild["name"], slots_total=2**40)], 80)])
    assert not any(char in text for char in "\x1b\r\x07")
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0ms"),
        (0.04, "<0.1ms"),
        (0.44, "0.4ms"),
        (9.96, "10.0ms"),
        (38.2, "38ms"),
        (1300, "1.3s"),
        (90_000, "1min"),
    ],
)
def test_short_times(value: float | None, text: str) -> None:
    assert short_ms(value) == text


def test_reliability_is_our_own_experience() -> None:
    assert reliable(offer(reliability=None, tries=0)) == "new"
    assert reliable(offer(reliability=0.667, tries=1)) == "67% (1)"


@pytest.mark.parametrize(
    ("empty", "model", "tier", "trouble", "advice"),
    [
        ({"reason": "NOT_CONNECTED", "peers": 0}, None, None, "no offers: you are connected to 0 peers, so", "join INVITE"),
        ({"reason": "NOBODY_SERVES", "peers": 1}, "m", None, "connected to 1 peer, but nobody serves", "models add PATH"),
        ({"reason": "ONLY_SELF", "peers": 3, "own": ["a", "b"]}, None, None, "only this node itself serves a model (a, b)",
         "on another machine"),
        ({"reason": "MODEL", "peers": 3, "others": ["minilm", "llama"]}, "minilmm", None, "nobody offers 'minilmm'",
         "did you mean minilm?"),
        ({"reason": "MODEL", "peers": 3, "others": ["minilm"]}, "xyz", None, "nobody offers 'xyz'", "on offer: minilm;"),
        ({"reason": "TIER", "peers": 3}, "minilm", "attested", "nobody offers 'minilm' in the tier attested",
         "leave out --tier"),
        ({}, None, None, "nobody serves", "cocoon-node"),
    ],
)  # fmt: skip
def test_nothing_on_offer_says_what_to_do(
    empty: dict[str, object], model: str | None, tier: str | None, trouble: str, advice: str
) -> None:
    said, hint = nothing_lines(empty, model, tier)
    assert trouble in said
    assert advice in hint


def test_what_is_shown_fits_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    show(answer(), None, None)
    show(answer(), "minilm", None)
    out, err = capsys.readouterr()
    assert max(map(len, (out + err).splitlines())) <= 80
    assert "test money, no value" in err
    assert "\x1b" not in out + err
    show(answer([], empty={"reason": "NOT_CONNECTED", "peers": 0}), None, None)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("cocoon-node: no offers: you are connected to 0 peers")
    assert "cocoon-node: hint: cocoon-node status" in err


def test_texts_of_changes_leave_out_what_changes_by_itself() -> None:
    now, later = answer(), answer([offer(age_ms=99_000, latency_ms=3.0)])
    later["book"] = [line(age_ms=99_000, fastest_ms=9.0), line("open", age_ms=99_000)]
    for each_offer in (False, True):
        assert change_texts(now, each_offer) == change_texts(later, each_offer)
    assert change_texts(now, False)[MINILM, "sealed", "item"] == (
        "minilm sealed: 1 offer, 31/32 free, best 0.00011, median 0.00012"
    )
    assert change_texts(now, True)[PEERS[0], MINILM, "open"] == (
        "12D3…Dz8e6N open: 0.0001 a job, 0.00001 on top for each item, 31/32 free, queue 150ms"
    )
