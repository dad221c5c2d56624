"""Invites as a node writes and reads them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cocoon_p2p.drivers.invites import (
    Invitation,
    choose_addresses,
    is_invite,
    read_invite,
    require_usable,
    write_invite,
)
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.ids import peer_id_from_public_key
from cocoon_p2p.wire.invite import Invite, encode_invite

PEER = peer_id_from_public_key(bytes(range(32)))
RELAY = peer_id_from_public_key(bytes(32))
PUBLIC, LAN, LOOPBACK = "/ip4/1.2.3.4/tcp/4601", "/ip4/192.168.1.7/tcp/4601", "/ip4/127.0.0.1/tcp/4601"
RELAYED = f"/ip4/5.6.7.8/tcp/4001/p2p/{RELAY}/p2p-circuit"
NOW_MS = 1_800_000_000_000
PLAIN = Invitation(PEER, (PUBLIC, LAN))


def test_the_best_addresses_come_first_and_this_machines_own_only_alone() -> None:
    given = [LOOPBACK, RELAYED, LAN, "/ip4/0.0.0.0/tcp/1", PUBLIC, "nonsense", "/dns4/node.example/tcp/1/ws"]
    assert list(map(str, choose_addresses(given))) == [PUBLIC, "/dns4/node.example/tcp/1/ws", LAN, RELAYED]
    assert list(map(str, choose_addresses([LOOPBACK]))) == [LOOPBACK]
    assert len(choose_addresses([f"/ip4/1.2.3.4/tcp/{port}" for port in range(1, 100)])) == 8


def test_what_is_written_is_read() -> None:
    full = Invitation(PEER, (PUBLIC, LAN, RELAYED), NOW_MS + 1, "büro", "ab12cd34ab12cd34", bytes(range(32)))
    for invitation in (PLAIN, full):
        text = write_invite(invitation)
        assert is_invite(f" {text.upper()}")
        assert read_invite(text, now_ms=NOW_MS) == invitation
    assert full.entries == (f"{PUBLIC}/p2p/{PEER}", f"{LAN}/p2p/{PEER}", f"{RELAYED}/p2p/{PEER}")


def test_addresses_that_do_not_fit_are_left_out_the_worst_first() -> None:
    names = tuple(f"/dns4/{'a' * 60}.{'b' * 60}.{'c' * 60}.{i}.example/tcp/1" for i in range(8))
    read = read_invite(write_invite(replace(PLAIN, addresses=names)), now_ms=NOW_MS)
    assert 1 <= len(read.addresses) < 8
    assert read.addresses == names[: len(read.addresses)]


def test_a_node_that_nobody_can_dial_writes_none() -> None:
    with pytest.raises(ConfigError, match="accepts no connections") as caught:
        write_invite(replace(PLAIN, addresses=()))
    assert "listen" in str(caught.value.hint)


def failed(text: str, now_ms: int = NOW_MS) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_invite(text, now_ms=now_ms)
    assert caught.value.hint
    return caught.value


def test_what_is_wrong_with_an_invite_is_said() -> None:
    text = write_invite(replace(PLAIN, expires_at_ms=NOW_MS))
    assert failed(text).code == "INVITE_EXPIRED"
    assert read_invite(text, now_ms=NOW_MS - 1).peer == PEER
    assert "checksum" in failed(text[:50] + ("q" if text[50] != "q" else "p") + text[51:]).message
    assert "bootstrap" in str(failed(f"{PUBLIC}/p2p/{PEER}").hint)
    unknown = encode_invite(Invite(PEER, (b"\x91\x02\x01\xbb",)))
    assert "no address that this program can dial" in failed(unknown).message


@pytest.mark.parametrize(
    ("invitation", "own", "fingerprint", "code"),
    [
        (PLAIN, PEER, "", "INVITE_OWN"),
        (replace(PLAIN, fingerprint="ab" * 8), None, "", "OTHER_NETWORK"),
        (PLAIN, RELAY, "ab" * 8, "OTHER_NETWORK"),
        (replace(PLAIN, fingerprint="cd" * 8, network_name="x"), RELAY, "ab" * 8, "OTHER_NETWORK"),
    ],
)
def test_who_may_not_use_it(invitation: Invitation, own: str | None, fingerprint: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require_usable(invitation, own=own, fingerprint=fingerprint)  # type: ignore[arg-type]
    assert (caught.value.code, bool(caught.value.hint)) == (code, True)


def test_who_may() -> None:
    require_usable(PLAIN, own=RELAY, fingerprint="")
    require_usable(replace(PLAIN, fingerprint="ab"), own=None, fingerprint="ab")


def test_the_key_is_in_no_repr() -> None:
    assert "network_key" not in repr(replace(PLAIN, network_key=bytes(32)))
