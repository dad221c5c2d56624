"""Meeting on the local network: real multicast, in a network namespace."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lonely import run_alone

from cocoon_p2p.ids import peer_id_from_public_key
from cocoon_p2p.limits import ADDRESSES_PER_ANNOUNCEMENT_MAX
from cocoon_p2p.net.addresses import parse_address
from cocoon_p2p.net.reach.mdns import PUBLIC_SERVICE, decode_txt, encode_txt, service_of

PEER = peer_id_from_public_key(bytes(range(32)))
LAN = parse_address("/ip4/192.168.1.5/tcp/4001")


@pytest.mark.slow
def test_nodes_of_a_lan_find_each_other_without_anybodys_help() -> None:
    found = run_alone("neighbours")
    one, two = found["ids"]
    assert found["met"] == [[two], [one], []]  # and the private network hears of neither


@pytest.mark.slow
def test_a_liar_makes_nobody_dial_the_internet_or_without_end() -> None:
    found = run_alone("mdns_liar")
    dialled = [address for _, address in found["dialled"]]
    assert dialled[0] == "/ip4/10.0.0.9/tcp/4001"
    assert len(dialled) <= 2  # MDNS_CONNECTIONS_PER_PEER_S and its burst
    assert found["counters"]["mdns_over_rate"] > 50


@pytest.mark.slow
def test_what_comes_while_it_starts_is_heard() -> None:
    """Nobody would say it again: our questions tell what we know."""
    assert run_alone("mdns_at_once") == {"met": True}


def test_a_record_comes_back() -> None:
    websocket = parse_address("/ip4/10.1.2.3/tcp/4002/ws")
    raw = encode_txt(PEER, [LAN, websocket])
    assert raw.startswith(bytes([len(f"dnsaddr={LAN}/p2p/{PEER}")]) + b"dnsaddr=/ip4/192.168.1.5/tcp/4001/p2p/12D3KooW")
    found = decode_txt(raw)
    assert list(found) == [PEER]
    assert [str(address) for address in found[PEER]] == [str(LAN), str(websocket)]


def texts(*strings: bytes) -> bytes:
    return b"".join(bytes([len(each)]) + each for each in strings)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"\x05short",
        texts(b"dnsaddr="),
        texts(f"{LAN}/p2p/{PEER}".encode()),  # without its key
        texts(f"dnsaddr={LAN}".encode()),  # without a peer
        texts(f"dnsaddr=/ip4/9.9.9.9/tcp/4001/p2p/{PEER}".encode()),  # on the internet
        texts(f"dnsaddr=/dns4/victim.example/tcp/4001/p2p/{PEER}".encode()),
        texts(f"dnsaddr=/ip4/10.0.0.1/tcp/0/p2p/{PEER}".encode()),
        texts(b"dnsaddr=/ip4/10.0.0.1/udp/4001/quic-v1/p2p/" + PEER.encode()),
        texts(b"dnsaddr=\xff\xfe"),
    ],
)
def test_what_makes_no_sense_is_left_out(raw: bytes) -> None:
    assert decode_txt(raw) == {}


@given(st.binary(max_size=600))
def test_garbage_harms_nothing(raw: bytes) -> None:
    assert sum(map(len, decode_txt(raw).values())) <= ADDRESSES_PER_ANNOUNCEMENT_MAX


def test_the_service_of_a_private_network_tells_nothing_of_its_key() -> None:
    assert service_of(None) == PUBLIC_SERVICE == "_p2p._udp.local."
    one, other = service_of(bytes(32)), service_of(bytes(31) + b"\1")
    assert one != other
    label = one.partition(".")[0].removeprefix("_")
    assert one == f"_{label}._udp.local."
    assert len(label) <= 15  # RFC 6335, 5.1
