"""rust-libp2p, as far as lattica shows it: connections, identify, ping, and its Kademlia with ours.

Lattica contacts a STUN server on the internet, whatever it is told, so it and our nodes meet in a network namespace without
a way out.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
from foreign import Foreign, ForeignError, open_json_lines_peer
from interop_nodes import PATIENCE_S
from isolation import HOST
from makes import HERE

from cocoon_p2p.net.dht.messages import KAD
from cocoon_p2p.net.gossip.messages import MESHSUB
from cocoon_p2p.net.identify.identify import IDENTIFY, PING
from cocoon_p2p.testing.net_contract import CONTENT, KEY

Open = Callable[[], AbstractAsyncContextManager[Foreign]]
OpenRust = Callable[..., AbstractAsyncContextManager[Foreign]]
"""Takes the addresses that it dials."""


@pytest.fixture
def open_rust(rust_folder: Path, namespace: Sequence[str]) -> OpenRust:
    command = [*namespace, sys.executable, HERE / "rust_peer.py", rust_folder, KAD, HOST]
    return lambda *bootstrap: open_json_lines_peer([*command, *bootstrap])


@pytest.fixture
def open_ours(namespace: Sequence[str]) -> Open:
    """Lattica hangs up on whoever names another protocol version than its own, which is its Kademlia's name."""
    command = [*namespace, sys.executable, HERE / "our_peer.py"]

    @asynccontextmanager
    async def opened() -> AsyncIterator[Foreign]:
        with trio.fail_after(PATIENCE_S):
            async with open_json_lines_peer(command, listen=f"/ip4/{HOST}/tcp/0", protocol_version=KAD) as ours:
                yield ours

    return opened


def full_address(peer: Foreign) -> str:
    return f"{peer.addresses[0]}/p2p/{peer.peer_id}"


async def acquainted(ours: Foreign, rust: Foreign) -> None:
    """Each has the other in its routing table."""
    await ours.call("connect", address=full_address(rust))
    await ours.call("wait_dht", peer=rust.peer_id)
    await rust.call("identify", peer=ours.peer_id)


@pytest.mark.parametrize("we_dial", [True, False], ids=["we dial", "they dial"])
async def test_identify_and_ping_with_rust(open_rust: OpenRust, open_ours: Open, we_dial: bool) -> None:
    async with open_ours() as ours, open_rust(*([] if we_dial else [full_address(ours)])) as rust:
        if we_dial:
            await ours.call("connect", address=full_address(rust))
        about_rust = await ours.call("identify", peer=rust.peer_id)
        assert about_rust["agent"].startswith("rust-libp2p/")
        assert about_rust["direction"] == ("outbound" if we_dial else "inbound")
        assert {IDENTIFY, PING, KAD, *MESHSUB} <= set(about_rust["protocols"])
        about_us = await rust.call("identify", peer=ours.peer_id)
        assert about_us["agent"] == "ours"
        assert {IDENTIFY, PING, KAD, *MESHSUB} <= set(about_us["protocols"])
        assert about_us["addresses"] == ours.addresses
        await ours.call("ping", peer=rust.peer_id)
        assert 0 < await rust.call("ping", peer=ours.peer_id) < 60


async def test_rust_shows_another_identity_than_expected(open_rust: OpenRust, open_ours: Open) -> None:
    async with open_ours() as ours, open_ours() as absent, open_rust() as rust:
        with pytest.raises(ForeignError, match="another peer answers there"):
            await ours.call("connect", address=f"{rust.addresses[0]}/p2p/{absent.peer_id}")


async def test_rust_keeps_our_record_and_provider(open_rust: OpenRust, open_ours: Open) -> None:
    """Their writer is gone when the reader asks."""
    async with open_rust() as rust, open_ours() as reader:
        async with open_ours() as writer:
            await acquainted(writer, rust)
            await writer.call("put", key=KEY, value="1:old")
            await writer.call("put", key=KEY, value="2:new")
            await writer.call("provide", content=CONTENT.hex())
        await acquainted(reader, rust)
        assert await reader.call("get", key=KEY) == "2:new"
        found = await reader.call("find_providers", content=CONTENT.hex())
        assert found == [[writer.peer_id, writer.addresses]]


async def test_a_record_of_rust_reaches_us(open_rust: OpenRust, open_ours: Open) -> None:
    """And is refused, since what lattica writes is no record of ours; that it was read shows in what the validator saw."""
    async with open_ours() as ours, open_rust(full_address(ours)) as rust:
        await rust.call("identify", peer=ours.peer_id)
        await rust.call("put", key=KEY, value="theirs")
        assert b"theirs" in bytes.fromhex(await ours.call("wait_refused", key=KEY))


async def test_a_peer_that_rust_knows_is_found(open_rust: OpenRust, open_ours: Open) -> None:
    async with open_ours() as wanted, open_ours() as seeker, open_rust() as rust:
        await acquainted(wanted, rust)
        await acquainted(seeker, rust)
        assert await seeker.call("echo", peer=wanted.peer_id, sizes=[5, 70_000])
