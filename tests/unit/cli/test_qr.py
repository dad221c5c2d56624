"""The QR code in the terminal is the one that segno made, whatever the terminal's colours."""

from __future__ import annotations

import re

import pytest
import segno

from cocoon_p2p.cli.qr import BLACK_ON_WHITE, QUIET_ZONE, RESET, qr_lines

TEXT = "COCOON1" + "QPZRY9X8GF2TVDW0" * 8
INK = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}


def modules(lines: list[str], *, ink_is_dark: bool) -> list[list[int]]:
    rows = []
    for line in lines:
        for half in (0, 1):
            rows.append([INK[char][half] if ink_is_dark else 1 - INK[char][half] for char in line])
    return rows


@pytest.mark.parametrize("coloured", [True, False])
def test_every_module_is_where_it_belongs(coloured: bool) -> None:
    lines = qr_lines(TEXT, coloured=coloured)
    if coloured:
        assert all(line.startswith(BLACK_ON_WHITE) and line.endswith(RESET) for line in lines)
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    code = segno.make(TEXT, error="l", micro=False, boost_error=True)
    expected = [[int(module) for module in row] for row in code.matrix_iter(border=QUIET_ZONE)]
    found = modules(lines, ink_is_dark=coloured)
    assert found[: len(expected)] == expected
    assert all(not any(row) for row in found[len(expected) :]), "nothing but margin below"


def test_an_invite_fits_a_terminal_and_is_alphanumeric() -> None:
    assert segno.make(TEXT, error="l", micro=False).mode == "alphanumeric"
    assert len(qr_lines(TEXT, coloured=False)[0]) <= 60
