"""Calls of a session on the real engine: state that stays gives what state that travels gives, and what one long run gives."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from cocoon_p2p.execution.arrays import to_arrays, to_payload
from cocoon_p2p.execution.engines import EngineSet, open_engine_set
from cocoon_p2p.execution.onnx_engine import open_engine
from cocoon_p2p.execution.session_states import SessionBounds
from cocoon_p2p.ids import PeerId
from cocoon_p2p.models.gathering import Wishes
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry
from cocoon_p2p.tensors import decode_payload
from cocoon_p2p.testing.engine_contract import buffer_of, refusal_of
from cocoon_p2p.testing.recurrent_models import STATE, gru_model, gru_sequence_model

pytestmark = pytest.mark.slow

ANNA, BERT = PeerId("anna"), PeerId("bert")
SESSION = np.arange(16, dtype=np.uint8)
XS = np.random.default_rng(3).standard_normal((6, 1, 3)).astype(np.float32)


@asynccontextmanager
async def opened(*models: InstalledModel, idle_s: float = 300.0) -> AsyncIterator[EngineSet]:
    async with (
        open_engine(threads=1, device="cpu") as own,
        open_engine_set(own, None, SessionBounds(idle_s, 1_000_000)) as engines,
    ):
        for model in models:
            await engines.load(model.model_id, model.folder, keep=True)
        yield engines


def installed(home: Path, path: Path) -> InstalledModel:
    return ModelRegistry(home / "home", inspect=inspect_onnx).add(path, wishes=Wishes(state=STATE))


async def call(
    engines: EngineSet,
    model: InstalledModel,
    step: int | None,
    *,
    client: PeerId = ANNA,
    wanted: Sequence[str] = (),
    **inputs: Any,
) -> dict[str, Any]:
    """One call of SESSION; an ordinary job where there is no step."""
    given = dict(inputs) if step is None else {"session": SESSION, "session_step": np.uint64(step), **inputs}
    buffer = buffer_of(engines, to_payload(given, wanted))
    with await engines.run(model.model_id, buffer, items_max=8, client=client) as result:
        assert result.items == len(inputs["x"])
        return {name: array.copy() for name, array in to_arrays(decode_payload(bytes(result.payload))).items()}


async def test_state_kept_is_state_travelled_is_one_long_run(tmp_path: Path) -> None:
    model = installed(tmp_path, gru_sequence_model(tmp_path))
    zeros = np.zeros((1, 1, 4), np.float32)
    async with opened(model) as engines:
        whole = await call(engines, model, None, x=XS, h=zeros)
        travelled, state = [], zeros
        for x in XS:
            outputs = await call(engines, model, None, x=x[None], h=state)
            travelled.append(outputs["y"])
            state = outputs["h_next"]
        kept = []
        for step, x in enumerate(XS):
            outputs = await call(engines, model, step, x=x[None])
            assert list(outputs) == ["y"], "state goes back only where it is wanted"
            kept.append(outputs["y"])
        for _ in range(2):  # the answer got lost; made again it is the same
            again = await call(engines, model, len(XS) - 1, x=XS[-1:], wanted=["h_next", "y"])
            assert np.array_equal(again["y"], kept[-1])
            assert np.array_equal(again["h_next"], whole["h_next"])
        brought = await call(engines, model, 100, x=XS[-1:], h=zeros)  # it begins here, at this step
        went_on = await call(engines, model, 101, x=XS[-1:])
    assert np.allclose(np.concatenate(kept), whole["y"], atol=1e-6)
    assert np.array_equal(np.concatenate(kept), np.concatenate(travelled))
    assert not np.array_equal(brought["y"], went_on["y"])


async def test_each_client_has_its_own_and_rows_their_own(tmp_path: Path) -> None:
    model = installed(tmp_path, gru_model(tmp_path))
    rows = XS[:2, 0]
    async with opened(model) as engines:
        first = await call(engines, model, 0, x=rows)
        alone = await call(engines, model, 0, client=BERT, x=rows[:1])
        second = await call(engines, model, 1, x=rows)
        error = await refusal_of(lambda: call(engines, model, 2, client=BERT, x=rows[:1]))
        assert error.code == "SESSION"
        wrong = await refusal_of(lambda: call(engines, model, 2, x=rows[:1]))  # one row less than the state has
        assert wrong.code == "MODEL"
        third = await call(engines, model, 2, x=rows)
        for inputs, words in (
            ({"session": SESSION, "x": rows}, "'session_step' must be"),
            ({"session": SESSION[:4], "session_step": np.uint64(0), "x": rows}, "'session' must be uint8[16]"),
            ({"session_step": np.uint64(0), "x": rows, "h": rows}, "input 'h' must be"),
            ({"session": SESSION, "session_step": np.uint64(0)}, "input 'x' is missing"),
        ):
            refused = await refusal_of(
                lambda i=inputs: engines.run(model.model_id, buffer_of(engines, to_payload(i)), items_max=8)  # type: ignore[misc]
            )
            assert (refused.code, words in refused.message) == ("INPUT", True), refused.message
        items = await refusal_of(lambda: call(engines, model, 3, x=np.zeros((9, 3), np.float32)))
        assert items.code == "ITEMS"
    assert np.allclose(first["y"][:1], alone["y"], atol=1e-6)
    assert not np.allclose(second["y"], third["y"])


async def test_a_worker_that_dies_takes_no_session_along(tmp_path: Path) -> None:
    model = installed(tmp_path, gru_sequence_model(tmp_path))
    async with opened(model) as engines:
        for step in range(2):
            before = await call(engines, model, step, x=XS[step : step + 1])
        pid = engines.models()[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with trio.fail_after(30):
            while engines.models()[0].pid in (pid, None):  # noqa: ASYNC110 - the port has no event for it
                await trio.sleep(0.01)
        again = await call(engines, model, 1, x=XS[1:2])
        await call(engines, model, 2, x=XS[2:3])
        await engines.unload(model.model_id)
        assert engines.sessions.count == 0
    assert np.array_equal(before["y"], again["y"])


async def test_a_provider_that_keeps_none_says_so(tmp_path: Path) -> None:
    model = installed(tmp_path, gru_sequence_model(tmp_path))
    async with opened(model, idle_s=0.0) as engines:
        error = await refusal_of(lambda: call(engines, model, 0, x=XS[:1]))
    assert (error.code, error.message) == ("SESSION", "this provider keeps no sessions")
