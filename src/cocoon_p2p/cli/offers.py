"""`cocoon-node offers`: the order book as this node sees it, or each offer of one model; once, or as it changes."""

from __future__ import annotations

import argparse
from typing import Any

from cocoon_p2p.cli.api_client import connect
from cocoon_p2p.cli.offers_text import money_line, nothing_lines, print_book, print_offers
from cocoon_p2p.cli.output import print_hint, print_json, print_note
from cocoon_p2p.cli.place import load_place


def run(options: argparse.Namespace) -> int:
    """Through the running node, or through one that joins the network for this question."""
    if options.watch:
        from cocoon_p2p.cli.offers_watch import watch

        return watch(options)
    answer = _ask(options)
    if options.json:
        print_json({"book": answer["book"], "offers": answer["offers"]})
    else:
        show(answer, options.model, options.tier)
    return 0


def show(answer: dict[str, Any], model: str | None, tier: str | None) -> None:
    """The tables, and what their numbers are; or why there are none."""
    if not answer["offers"]:
        trouble, advice = nothing_lines(answer.get("empty") or {}, model, tier)
        print_note(trouble)
        print_hint(advice)
        return
    if model is None:
        print_book(answer["book"])
    else:
        print_offers(answer["book"], answer["offers"])
    print_note(f"{money_line(answer, each_offer=model is not None)}; ids: --json")


def _ask(options: argparse.Namespace) -> dict[str, Any]:
    home, config = load_place(options)
    api = connect(home.api_socket())
    if api is not None:
        return api.get("/v1/offers", model=options.model, tier=options.tier)
    from cocoon_p2p.cli.guest import offers_as_guest

    return offers_as_guest(home, config, options.bootstrap, options.model, options.tier)
