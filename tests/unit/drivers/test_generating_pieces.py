"""What a client keeps of a piece of an answer: what it asked for, and no more."""

from __future__ import annotations

import pytest

from cocoon_p2p.drivers.generating import _as_asked
from cocoon_p2p.generation import Piece, Token
from cocoon_p2p.limits import GENERATION_ALTERNATIVE_CHARS_MAX

LONG = "x" * 10_000
TOP = ((1, LONG, -5), (2, "b", -6), (3, "c", -7))


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        (None, Token(7)),
        (0, Token(7, -5)),
        (2, Token(7, -5, ((1, "x" * GENERATION_ALTERNATIVE_CHARS_MAX, -5), (2, "b", -6)))),
        (20, Token(7, -5, ((1, "x" * GENERATION_ALTERNATIVE_CHARS_MAX, -5), *TOP[1:]))),
    ],
)
def test_log_probabilities_are_kept_as_they_were_asked_for(asked: int | None, kept: Token) -> None:
    piece = Piece((Token(7, -5, TOP), Token(8)), "so", "stop", 3, 1)
    assert _as_asked(piece, asked) == Piece((kept, Token(8)), "so", "stop", 3, 1)


def test_a_piece_without_any_is_kept_as_it_is() -> None:
    piece = Piece((Token(7),), "so")
    assert _as_asked(piece, None) is piece
