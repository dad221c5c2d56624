"""What peers wrote, as it stands in logs."""

from __future__ import annotations

from cocoon_p2p.errors import LOG_CHARS_MAX, RemoteProtocolError, one_line


def test_a_peer_writes_no_line_of_its_own_into_a_log() -> None:
    shown = one_line(RemoteProtocolError("bad\n2026-01-01 INFO all is well\x1b[2J\r\u2028\u202e"))
    assert shown.isprintable()
    assert shown.startswith("bad\N{REPLACEMENT CHARACTER}2026-01-01 INFO all is well")
    assert one_line("plain, Grüße") == "plain, Grüße"


def test_a_long_text_is_cut() -> None:
    assert one_line("x" * 10_000) == "x" * LOG_CHARS_MAX + "…"
