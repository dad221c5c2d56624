"""What a provider reads of a client again after its start."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cocoon_p2p.drivers.clock import SystemClock, unix_ms
from cocoon_p2p.drivers.provider_books import ProviderBooks
from cocoon_p2p.ids import JobId, ModelId, Tier
from cocoon_p2p.limits import LATE_JOBS_FREE
from cocoon_p2p.policy.late_cancels import LateCancels
from cocoon_p2p.proto.provider_desk import ProviderDesk
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.store import JobRecord, open_store

CLIENT = IdentityKey.from_seed(bytes([2]) * 32).peer_id


@pytest.mark.parametrize("done", [False, True])
def test_jobs_without_a_price_that_were_done_speak_for_a_client(tmp_path: Path, done: bool) -> None:
    clock, late_cancels = SystemClock(), LateCancels()
    desk = cast(ProviderDesk, SimpleNamespace(late_cancels=late_cancels))
    now_ms, left = unix_ms(clock), LATE_JOBS_FREE + 2
    with open_store(tmp_path / "state.db") as store:
        for number in range(2 * left):
            good, job_id = number >= left, JobId(number.to_bytes(16))
            if good and not done:
                break
            store.jobs.insert(
                JobRecord(
                    job_id=job_id,
                    role="provider",
                    model_id=ModelId("ab" * 32),
                    model_name="free",
                    peer_id=CLIENT,
                    tier=Tier.OPEN,
                    state="done" if good else "failed",
                    price=0,
                    items=1,
                    created_at_ms=now_ms,
                    finished_at_ms=now_ms,
                    error="",
                )
            )
            if not good:
                store.jobs.note_wasted(job_id, CLIENT, 1)
        ProviderBooks(store, cast(Any, None), desk, clock).recall(CLIENT)
    assert (late_cancels.refusal(CLIENT, now_ms) is None) is done
