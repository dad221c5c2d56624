"""What `run` says of the price, and hints in the home that was named."""

from __future__ import annotations

from pathlib import Path

import pytest

from cocoon_p2p.cli.place import with_home
from cocoon_p2p.cli.run import _agreement_pairs, _price_text


def test_the_price_is_what_was_paid() -> None:
    agreement = {"price_nanogram": 330_000, "answers": 3, "asked": 3, "agreed": 3, "providers": []}
    assert _price_text({"price_nanogram": 110_000, "agreement": None}).startswith("0.00011 GRAM (")
    assert _price_text({"price_nanogram": 110_000, "agreement": agreement}).startswith("0.00033 GRAM for 3 answers (")
    assert _price_text({"agreement": agreement | {"answers": 1}}).startswith("0.00033 GRAM for 1 answer (")
    assert _agreement_pairs(agreement) == [("quorum", "3 of 3 agree")]


@pytest.mark.parametrize(
    ("hint", "shown"),
    [
        ("cocoon-node why 53a0ad9abef5", "cocoon-node why --home /other 53a0ad9abef5"),
        ("see `cocoon-node peers`; or cocoon-node up", "see `cocoon-node peers --home /other`; or cocoon-node up --home /other"),
        ("cocoon-node up --home /x", "cocoon-node up --home /x"),
        ("ask for one: cocoon-node invite", "ask for one: cocoon-node invite"),
        ("cocoon-node offers on another machine", "cocoon-node offers on another machine"),
        ("`cocoon-node status` on that machine shows it", "`cocoon-node status` on that machine shows it"),
        ("allow more: --timeout", "allow more: --timeout"),
    ],
)  # fmt: skip
def test_commands_in_hints_are_for_the_home_that_was_named(
    hint: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COCOON_HOME", str(tmp_path))
    assert with_home(hint, "/other") == shown
    assert with_home(hint, None) == with_home(hint, str(tmp_path)) == hint
