"""What every `Engine` does: subclass `EngineContract`, say how one is opened, and pytest runs these tests on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import numpy as np
import trio
import trio.testing
from numpy.typing import NDArray

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.arrays import to_arrays, to_payload
from cocoon_p2p.execution.pool_settings import PoolSettings
from cocoon_p2p.execution.port import Engine, ExecutionResult, InputBuffer
from cocoon_p2p.generation import GenerationRequest, parse_piece
from cocoon_p2p.limits import RATE_WINDOW_S
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry
from cocoon_p2p.tensors import Payload, Tensor, decode_payload, payload_bytes, string_tensor, write_payload
from cocoon_p2p.testing import models
from cocoon_p2p.testing.tiny_genai import make_tiny_genai

ENDLESS = 10**12
"""Turns of `models.slow_model`."""
Arrays = dict[str, NDArray[Any]]
_PATIENCE_S = 30.0
"""Far beyond what anything here takes on a slow machine; a test that hangs ends with it."""


def buffer_of(engine: Engine, payload: Payload | bytes) -> InputBuffer:
    """A buffer that holds a payload, or bytes that are none."""
    if isinstance(payload, bytes):
        buffer = engine.input_buffer(len(payload))
        buffer.view[:] = payload
        return buffer
    buffer = engine.input_buffer(payload_bytes(payload))
    write_payload(payload, buffer.view)
    return buffer


async def run_job(
    engine: Engine,
    model: InstalledModel,
    inputs: dict[str, Any] | Payload,
    *,
    wanted: Sequence[str] = (),
    items_max: int = 64,
) -> Arrays:
    """One job; its outputs as arrays of their own."""
    payload = inputs if isinstance(inputs, Payload) else to_payload(inputs, wanted)
    result = await engine.run(model.model_id, buffer_of(engine, payload), items_max=items_max)
    return _outputs_of(result)


def texts(*strings: str) -> Payload:
    return Payload((string_tensor("text", strings),))


async def refusal_of(work: Callable[[], Any]) -> ExecutionError:
    """The ExecutionError that `work` raises."""
    try:
        await work()
    except ExecutionError as error:
        return error
    raise AssertionError("it was not refused")


async def wait_until_running(engine: Engine, jobs: int = 1) -> None:
    """Until a worker has this many jobs. The engine tells by its status only, so this looks again and again."""
    with trio.fail_after(_PATIENCE_S):
        while sum(status.running for status in engine.models()) < jobs:  # noqa: ASYNC110 - the port has no event for it
            await trio.sleep(0.001)


class EngineContract:
    """Tests take pytest's tmp_path. Engines get only the settings that a test names."""

    def open_engine(self, **settings: Any) -> AbstractAsyncContextManager[Engine]:
        """An engine of the kind under test; `settings` are queue_max, output_bytes_max, bytes_in_flight_max,
        batch_items_max, job_seconds, pool (a `PoolSettings`)."""
        raise AssertionError("a subclass says how")

    def install(self, home: Path, path: Path) -> InstalledModel:
        return ModelRegistry(home / "home", inspect=inspect_onnx).add(path)

    async def test_several_inputs_and_outputs(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.two_in_two_out_model(tmp_path))
        a, b = np.array([[1, 2, 3]], np.float32), np.array([[10, 20, 30]], np.float32)
        async with self.open_engine() as engine:
            await engine.load(model.model_id, model.folder)
            outputs = await run_job(engine, model, {"b": b, "a": a})
            chosen = await run_job(engine, model, {"a": a, "b": b}, wanted=["difference"])
            empty = await run_job(engine, model, {"a": a[:0], "b": b[:0]})
        assert list(outputs) == ["sum", "difference"]
        assert np.array_equal(outputs["sum"], a + b)
        assert np.array_equal(outputs["difference"], a - b)
        assert list(chosen) == ["difference"]
        assert empty["sum"].shape == (0, 3)

    async def test_types_of_tensors(self, tmp_path: Path) -> None:
        cases: list[tuple[str, Any]] = [
            ("bool", np.array([True, False])),
            ("string", np.array(["grüße", ""], dtype=object)),
            ("float16", np.array([1.5, -2], np.float16)),
            ("int64", np.array([2**62, -1])),
            ("float64", np.array([0.1, 0.2])),
        ]
        async with self.open_engine() as engine:
            for dtype, array in cases:
                model = self.install(tmp_path, models.copy_model(tmp_path, dtype, ["n"]))
                await engine.load(model.model_id, model.folder)
                outputs = await run_job(engine, model, {"x": array})
                assert outputs["y"].dtype == array.dtype, dtype
                assert np.array_equal(outputs["y"], array), dtype

    async def test_types_that_numpy_lacks_travel_as_bits(self, tmp_path: Path) -> None:
        half = self.install(tmp_path, models.half_model(tmp_path))
        four = self.install(tmp_path, models.four_bit_model(tmp_path))
        async with self.open_engine() as engine:
            await engine.load(half.model_id, half.folder)
            await engine.load(four.model_id, four.folder)
            outputs = await run_job(engine, half, {"x": np.array([1, -2.5], np.float32)})
            bits = Payload((Tensor("x", "int4", (3,), np.array([7, -8, 3], np.int8).tobytes()),))
            numbers = await run_job(engine, four, bits)
        assert np.array_equal(outputs["y"], np.array([2, -5], np.float16))
        assert [hex(bits) for bits in outputs["b"]] == ["0x3f80", "0xc020"]
        assert numbers["y"].tolist() == [7, -8, 3]
        assert numbers["z"].tolist() == [7, -8, 3]

    async def test_scalars(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.slow_model(tmp_path))
        async with self.open_engine() as engine:
            await engine.load(model.model_id, model.folder)
            outputs = await run_job(engine, model, {"turns": np.int64(5)})
        assert outputs["count"].shape == ()
        assert outputs["count"] == 5

    async def test_large_tensors(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.copy_model(tmp_path, "float32", ["n"]))
        large, small = np.arange(1_000_000, dtype=np.float32), np.arange(30_000, dtype=np.float32)
        async with self.open_engine() as engine:
            await engine.load(model.model_id, model.folder)
            for array in (large, small, large[:900_000], large):
                outputs = await run_job(engine, model, {"x": array}, items_max=len(array))
                assert np.array_equal(outputs["y"], array)

    async def test_wrong_inputs_say_what_is_wanted(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.matmul_model(tmp_path))
        good = np.zeros((2, 4), np.float32)
        cases: list[tuple[dict[str, Any], list[str], str]] = [
            ({}, [], "input 'x' is missing: it must be float32[batch,4]"),
            ({"x": good.astype(np.float64)}, [], "input 'x' must be float32[batch,4], got float64[2,4]"),
            ({"x": good[:, :3]}, [], "input 'x' must be float32[batch,4], got float32[2,3]"),
            ({"x": good[0]}, [], "input 'x' must be float32[batch,4], got float32[4]"),
            ({"x": good, "z": good}, [], "the model has no input 'z'; it takes 'x' float32[batch,4]"),
            ({"x": good}, ["w"], "there is no output 'w'; this job can give 'y'"),
        ]
        async with self.open_engine() as engine:
            await engine.load(model.model_id, model.folder)
            for inputs, wanted, message in cases:
                error = await refusal_of(lambda i=inputs, w=wanted: run_job(engine, model, i, wanted=w))  # type: ignore[misc]
                assert (error.code, error.message) == ("INPUT", message)

    async def test_bytes_that_are_no_payload(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.copy_model(tmp_path, "string", ["n"]))
        good = bytearray(payload_bytes(to_payload({"x": np.array(["abc"], dtype=object)})))
        write_payload(to_payload({"x": np.array(["abc"], dtype=object)}), memoryview(good))
        not_text = bytes(good).replace(b"abc", b"\xff\xfe\xfd")
        async with self.open_engine() as engine:
            await engine.load(model.model_id, model.folder)
            for payload in (bytes(64), b"\xff" * 200, bytes(good[:-64]), not_text, bytes(range(64)) * 2000):
                buffer = buffer_of(engine, payload)
                error = await refusal_of(lambda b=buffer: engine.run(model.model_id, b, items_max=9))  # type: ignore[misc]
                assert error.code == "INPUT", payload[:64]
            assert (await run_job(engine, model, {"x": np.array(["d"], dtype=object)}))["y"].tolist() == ["d"]

    async def test_items_are_counted_and_bounded(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.matmul_model(tmp_path))
        rows = to_payload({"x": np.zeros((3, 4), np.float32)})
        async with self.open_engine() as engine:
            await engine.load(model.model_id, model.folder)
            with await engine.run(model.model_id, buffer_of(engine, rows), items_max=3) as result:
                assert result.items == 3
                assert result.queue_s >= 0
                assert result.execute_s > 0
            error = await refusal_of(lambda: engine.run(model.model_id, buffer_of(engine, rows), items_max=2))
            assert error.code == "ITEMS"
            assert engine.models()[0].jobs_done == 1
            assert engine.models()[0].items_done == 3
            assert engine.models()[0].best_items_s == 3 / RATE_WINDOW_S
            assert engine.models()[0].item_s is not None

    async def test_a_failed_run_harms_no_other(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.failing_model(tmp_path))
        x = np.zeros((2, 4), np.float32)
        async with self.open_engine() as engine:
            await engine.load(model.model_id, model.folder)
            error = await refusal_of(lambda: run_job(engine, model, {"x": x, "shape": np.array([3, 3])}))
            assert error.code == "MODEL"
            assert str(model.folder) not in error.message
            outputs = await run_job(engine, model, {"x": x, "shape": np.array([8])})
        assert outputs["y"].shape == (8,)

    async def test_loading(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.matmul_model(tmp_path))
        job = {"x": np.zeros((1, 4), np.float32)}
        async with self.open_engine() as engine:
            assert (await refusal_of(lambda: run_job(engine, model, job))).code == "MODEL"
            first = await engine.load(model.model_id, model.folder)
            again = await engine.load(model.model_id, model.folder)
            assert first.pid == again.pid
            assert first.loaded
            assert first.device.name
            await engine.unload(model.model_id)
            assert engine.models() == ()
            assert (await refusal_of(lambda: run_job(engine, model, job))).code == "MODEL"
            (model.folder / "model.onnx").write_bytes(b"something else")
            error = await refusal_of(lambda: engine.load(model.model_id, model.folder))
            assert "was altered" in error.message
            assert engine.models() == ()

    async def test_loading_on_demand(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.matmul_model(tmp_path))
        job = {"x": np.zeros((1, 4), np.float32)}
        async with self.open_engine() as engine:
            cold = await engine.load(model.model_id, model.folder, keep=False)
            assert (cold.warm, cold.loaded, cold.pid, cold.replicas) == (False, False, None, 0)
            assert cold.load_s is not None
            assert cold.memory_bytes
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(run_job, engine, model, job)
            (status,) = engine.models()
            assert (status.warm, status.loaded, status.jobs_done, status.load_s) == (True, True, 3, None)
            assert (await engine.load(model.model_id, model.folder)).pid == status.pid

    async def test_a_cold_model_that_does_not_load_fails_its_jobs(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.matmul_model(tmp_path))
        (model.folder / "model.onnx").write_bytes(b"something else")
        async with self.open_engine() as engine:
            await engine.load(model.model_id, model.folder, keep=False)
            error = await refusal_of(lambda: run_job(engine, model, {"x": np.zeros((1, 4), np.float32)}))
            assert "was altered" in error.message
            (status,) = engine.models()
            assert "was altered" in status.problem
            assert not status.warm

    async def test_a_model_larger_than_the_memory_for_models(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.matmul_model(tmp_path))
        async with self.open_engine(pool=PoolSettings(budget_bytes=1)) as engine:
            for keep in (None, True, False):
                error = await refusal_of(lambda k=keep: engine.load(model.model_id, model.folder, keep=k))  # type: ignore[misc]
                assert error.code == "LIMITS"
                assert "MiB of memory" in error.message
            assert engine.models() == ()

    async def test_unloading_when_idle(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.matmul_model(tmp_path))
        kept = self.install(tmp_path, models.centring_model(tmp_path))
        job = {"x": np.zeros((1, 4), np.float32)}
        async with self.open_engine(pool=PoolSettings(unload_idle_s=0.05, tend_s=0.01)) as engine:
            await engine.load(kept.model_id, kept.folder, keep=True)
            first = await engine.load(model.model_id, model.folder)
            with trio.fail_after(_PATIENCE_S):
                while sum(status.warm for status in engine.models()) > 1:  # noqa: ASYNC110 - the port has no event for it
                    await trio.sleep(0.001)
            warm = {status.model_id: status.warm for status in engine.models()}
            assert warm == {kept.model_id: True, model.model_id: False}
            assert (await run_job(engine, model, job))["y"].shape == (1, 3)
            assert first.pid not in [status.pid for status in engine.models()]

    async def test_a_job_that_takes_too_long(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.slow_model(tmp_path))
        async with self.open_engine(job_seconds=0.3) as engine:
            pid = (await engine.load(model.model_id, model.folder)).pid
            error = await refusal_of(lambda: run_job(engine, model, {"turns": np.int64(ENDLESS)}))
            assert (error.code, error.retryable) == ("DEADLINE", True)
            assert "0.3 s" in error.message
            assert (await run_job(engine, model, {"turns": np.int64(3)}))["count"] == 3
            assert engine.models()[0].pid == pid, "the run ended without ending the worker"

    async def test_generating(self, tmp_path: Path) -> None:
        writer = self.install(tmp_path, make_tiny_genai(tmp_path / "tiny"))
        tensors = self.install(tmp_path, models.matmul_model(tmp_path))
        asked = GenerationRequest(prompt="once", max_tokens=20).payload()
        async with self.open_engine() as engine:
            await engine.load(writer.model_id, writer.folder, keep=False)
            await engine.load(tensors.model_id, tensors.folder)
            texts_written = []
            for _ in range(2):
                buffer = buffer_of(engine, asked)
                pieces, produced = [], None
                async with await engine.generate(writer.model_id, buffer, items_max=999, items_allowed=999) as stream:
                    while produced is None or not produced.final:
                        produced = await stream.receive()
                        pieces.append(parse_piece(produced.data))
                    assert produced.items == stream.prompt_items + 20
                texts_written.append("".join(piece.text for piece in pieces))
                assert pieces[-1].finish == "length"
            assert texts_written[0] == texts_written[1] != ""
            error = await refusal_of(
                lambda: engine.generate(tensors.model_id, buffer_of(engine, asked), items_max=9, items_allowed=9)
            )
            assert error.code == "MODEL"
            error = await refusal_of(lambda: run_job(engine, writer, {"x": np.zeros(1)}))
            assert error.code == "INPUT"

    async def test_unloading_ends_its_jobs(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.slow_model(tmp_path))
        async with self.open_engine() as engine, trio.open_nursery() as nursery:
            await engine.load(model.model_id, model.folder)
            errors = []

            async def endless() -> None:
                errors.append(await refusal_of(lambda: run_job(engine, model, {"turns": np.int64(ENDLESS)})))

            nursery.start_soon(endless)
            nursery.start_soon(endless)
            await wait_until_running(engine)
            await engine.unload(model.model_id)
        assert [error.code for error in errors] == ["SHUTTING_DOWN"] * 2

    async def test_cancelling(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.slow_model(tmp_path))
        async with self.open_engine() as engine:
            pid = (await engine.load(model.model_id, model.folder)).pid
            async with trio.open_nursery() as running, trio.open_nursery() as queued:
                running.start_soon(run_job, engine, model, {"turns": np.int64(ENDLESS)})
                await wait_until_running(engine)
                queued.start_soon(run_job, engine, model, {"turns": np.int64(ENDLESS)})
                await trio.testing.wait_all_tasks_blocked()
                assert engine.models()[0].queued == 1
                queued.cancel_scope.cancel()
                running.cancel_scope.cancel()
            with trio.fail_after(_PATIENCE_S):
                outputs = await run_job(engine, model, {"turns": np.int64(3)})
            assert engine.models()[0].pid == pid, "the run ended without ending the worker"
        assert outputs["count"] == 3

    async def test_a_full_queue(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.slow_model(tmp_path))
        async with self.open_engine(queue_max=1) as engine, trio.open_nursery() as nursery:
            await engine.load(model.model_id, model.folder)
            for _ in range(2):
                nursery.start_soon(run_job, engine, model, {"turns": np.int64(ENDLESS)})
                await wait_until_running(engine)
            await trio.testing.wait_all_tasks_blocked()
            error = await refusal_of(lambda: run_job(engine, model, {"turns": np.int64(1)}))
            nursery.cancel_scope.cancel()
        assert (error.code, error.retryable) == ("BUSY", True)

    async def test_bounds_of_memory(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.constant_model(tmp_path, 50_000))
        x = {"x": np.ones(1, np.float32)}
        async with self.open_engine(output_bytes_max=100_000, bytes_in_flight_max=300_000) as engine:
            await engine.load(model.model_id, model.folder)
            error = await refusal_of(lambda: run_job(engine, model, x))
            assert error.code == "LIMITS"
            buffer = engine.input_buffer(200_000)
            try:
                engine.input_buffer(200_000)
            except ExecutionError as refusal:
                assert refusal.code == "LIMITS"
            else:
                raise AssertionError("it was not refused")
            buffer.release()
            buffer.release()
            engine.input_buffer(300_000).release()

    async def test_released_memory_is_wiped(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.copy_model(tmp_path, "float32", ["n"]))
        async with self.open_engine() as engine:
            await engine.load(model.model_id, model.folder)
            secret = to_payload({"x": np.full(100_000, 7, np.float32)})
            result = await engine.run(model.model_id, buffer_of(engine, secret), items_max=100_000)
            assert any(result.payload)
            result.release()
            for _ in range(3):
                buffer = engine.input_buffer(payload_bytes(secret))
                assert not any(buffer.view)
                buffer.view[:] = b"s" * len(buffer.view)
                buffer.release()
            outputs = await run_job(engine, model, {"x": np.zeros(90_000, np.float32)}, items_max=100_000)
        assert not outputs["y"].any()

    async def test_jobs_in_one_run_get_what_they_get_alone(self, tmp_path: Path) -> None:
        batching = self.install(tmp_path, models.matmul_model(tmp_path))
        mixing = self.install(tmp_path, models.centring_model(tmp_path))
        rng = np.random.default_rng(1)
        for model, width in ((batching, 4), (mixing, 2)):
            inputs = [{"x": rng.standard_normal((1 + n % 3, width)).astype(np.float32)} for n in range(12)]
            await self._compare(model, [to_payload(arrays) for arrays in inputs])

    async def test_texts_in_one_run_get_what_they_get_alone(self, tmp_path: Path) -> None:
        model = self.install(tmp_path, models.embedding_model(tmp_path / "text"))
        jobs = [
            texts("a b c"),
            texts("d", "a a a a a a a a", "b"),
            texts(),
            texts("c d"),
            texts(""),
            texts(*["a b"] * 40),
        ]
        outputs = await self._compare(model, jobs)
        assert outputs[1]["sentence_embedding"].tolist() == [[5, 1], [16, 8], [3, 1]]
        assert outputs[2]["sentence_embedding"].shape == (0, 2)

    async def _compare(self, model: InstalledModel, payloads: list[Payload]) -> list[Arrays]:
        """Runs all jobs at once, and one by one; the results, which must be the same."""
        together: dict[int, Arrays] = {}
        async with self.open_engine() as engine:
            await engine.load(model.model_id, model.folder)

            async def one(number: int) -> None:
                together[number] = await run_job(engine, model, payloads[number])

            async with trio.open_nursery() as nursery:
                for number in range(len(payloads)):
                    nursery.start_soon(one, number)
            alone = [await run_job(engine, model, payload) for payload in payloads]
        for number, outputs in enumerate(alone):
            for name, array in outputs.items():
                assert np.allclose(together[number][name], array, rtol=1e-5, atol=1e-6), (number, name)
        return alone


def _outputs_of(result: ExecutionResult) -> Arrays:
    with result:
        return to_arrays(decode_payload(bytes(result.payload)))
