"""Announcements on their ways out: what somebody asks for first, and what everybody hears of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio
import trio.testing
from trio.testing import MockClock

from cocoon_p2p import limits
from cocoon_p2p.assembly import VALIDATORS
from cocoon_p2p.drivers.announcing import Announcing
from cocoon_p2p.ids import ModelId, PeerId, Tier
from cocoon_p2p.net.memory import MemoryHub
from cocoon_p2p.proto.announcements import verify_announcement
from cocoon_p2p.proto.announcer import Announcer
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.store import open_store
from cocoon_p2p.testing.simulation import VirtualClock
from cocoon_p2p.wire.capacity import CAPACITY_TOPIC, Announcement, DeviceClass, Offer, TierPrice, Unit

PEER, LISTENER = IdentityKey.from_seed(b"p" * 32), IdentityKey.from_seed(b"l" * 32)


def offer(base: int) -> Offer:
    prices = (TierPrice(Tier.SEALED, base, 10),)
    return Offer(ModelId("ab" * 32), "echo", Unit.ITEM, prices, 64, 10_000, 4, 4, 0, "cpu", DeviceClass.CPU, 0, 0)


@dataclass
class Scene:
    """A node that announces, and a neighbour who listens."""

    announcing: Announcing
    gossip: AsyncIterator[tuple[PeerId, bytes]]
    offers: list[Offer]
    listening_back: trio.Event = field(default_factory=trio.Event)

    async def heard(self) -> Announcement:
        with trio.fail_after(limits.ANNOUNCEMENT_INTERVAL_S / 2):  # before a regular one could come
            _, raw = await anext(self.gossip)
        return verify_announcement(raw).announcement


@asynccontextmanager
async def open_scene(folder: Path, *prices: int) -> AsyncIterator[Scene]:
    hub, offers = MemoryHub(seed=0, latency_s=0.01), [offer(price) for price in prices]

    def source() -> tuple[Sequence[Offer], Sequence[str]]:
        return offers, ()

    async def listen_back() -> None:
        await scene.listening_back.wait()

    with open_store(folder / "state.db") as store:
        async with (
            hub.open(PEER.peer_id, validators=VALIDATORS) as network,
            hub.open(LISTENER.peer_id, validators=VALIDATORS) as listener,
        ):
            announcing = Announcing(
                network, store, VirtualClock(), Announcer(PEER, agent="test", settlement_network=0, sequence=0),
                offers=source, announced=lambda offers, expires_at_ms: None, before_first=listen_back,
            )  # fmt: skip
            async with (
                network.subscribe(CAPACITY_TOPIC, lambda author, data: True),
                listener.subscribe(CAPACITY_TOPIC, lambda author, data: True) as gossip,
                trio.open_nursery() as nursery,
            ):
                await listener.connect(PEER.peer_id, network.addresses())
                nursery.start_soon(announcing.run)
                announcing.refresh()
                scene = Scene(announcing, gossip, offers)
                yield scene
                nursery.cancel_scope.cancel()


async def test_who_asks_while_it_listens_back_is_answered(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with open_scene(tmp_path, 100) as scene:
        await trio.testing.wait_all_tasks_blocked()
        answer = scene.announcing.current()
        assert answer is not None
        assert answer.announcement.offers == (offer(100),)
        with trio.move_on_after(limits.LISTEN_BACK_S) as asking:
            await scene.heard()
        assert asking.cancelled_caught, "nothing is gossiped before it has listened"
        scene.listening_back.set()
        assert await scene.heard() == answer.announcement


async def test_a_change_that_somebody_asks_about_first_is_heard_by_all(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with open_scene(tmp_path, 100) as scene:
        scene.listening_back.set()
        await scene.heard()
        await trio.sleep(2 * limits.ANNOUNCEMENT_MIN_INTERVAL_S)
        scene.offers[:] = [offer(500)]
        answer = scene.announcing.current()
        assert answer is not None
        assert answer.announcement.offers == (offer(500),)
        assert await scene.heard() == answer.announcement


async def test_after_goodbye_nothing_comes_that_was_still_to_be_said(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with open_scene(tmp_path, 100) as scene:
        scene.listening_back.set()
        await scene.heard()
        await trio.sleep(2 * limits.ANNOUNCEMENT_MIN_INTERVAL_S)
        scene.offers[:] = [offer(500)]
        scene.announcing.current()
        scene.offers.clear()
        await scene.announcing.goodbye()
        assert (await scene.heard()).offers == ()
        with trio.move_on_after(limits.ANNOUNCEMENT_INTERVAL_S / 3) as listening:
            await scene.heard()
        assert listening.cancelled_caught
