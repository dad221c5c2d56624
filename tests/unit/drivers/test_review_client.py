"""What a client keeps of providers that it cannot reach."""

from __future__ import annotations

from pathlib import Path

import pytest
from far_provider import JOB, PROVIDER, make_terms, open_scene
from trio.testing import MockClock

from cocoon_p2p.errors import TransportError
from cocoon_p2p.sealing.signing import IdentityKey


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def test_nothing_is_kept_of_those_that_cannot_be_reached(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Anybody can announce any number of providers that are not there."""
    async with open_scene(tmp_path) as scene:
        for _ in range(5):
            with pytest.raises(TransportError):
                await scene.jobs.ask(IdentityKey.generate().peer_id, (), JOB, make_terms(), deadline=1e9)
        assert not scene.jobs._opening
        await scene.quoted()
        assert set(scene.jobs._opening) == {PROVIDER.peer_id}
