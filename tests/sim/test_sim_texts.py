"""What a client learns of a job on texts beside its outputs: labels, and how many texts were cut. Virtual time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trio.testing
from test_sim_jobs import autojump_clock

from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.node import RunRequest, RunResult
from cocoon_p2p.node_jobs import payload_of
from cocoon_p2p.tensors import Payload, Tensor
from cocoon_p2p.testing.simulation import Simulation
from cocoon_p2p.testing.text_models import classifier_model

__all__ = ["autojump_clock"]

SCORES = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)


async def result_of(folder: Path, cut: int) -> RunResult:
    source = classifier_model(folder / "mood", labels=("sad", "glad"))
    model = ModelRegistry(folder / "models", inspect=inspect_onnx).add(source).folder

    def answer(payload: Payload) -> Payload:
        return Payload((Tensor("scores", "float32", SCORES.shape, SCORES.tobytes()),), cut=cut)

    async with Simulation(folder / "nodes") as sim:
        await sim.start("bootstrap")
        await sim.start("provider", model=model, behaviour=answer)
        client = await sim.start("client")
        return await client.node.run_payload(RunRequest("mood"), payload_of(text=["a", "b"]))


async def test_labels_and_texts_that_were_cut(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    result = await result_of(tmp_path, cut=1)
    assert (result.labels, result.texts_cut, result.tokens_max) == (("sad", "glad"), 1, 16)


async def test_more_texts_cut_than_there_are(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    assert (await result_of(tmp_path, cut=9)).texts_cut == 2
