"""Content that was altered on a data socket, where anybody on the path can: the job fails, and nobody loses standing for
what somebody else may have done. The same content that came authenticated costs its sender."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_sim_hostile import Scene, X, accepted, make_job, open_scene, paid, quoted
from trio.testing import MockClock

from cocoon_p2p.drivers import job_provider
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.net.framing import FramedStream
from cocoon_p2p.node import RunRequest
from cocoon_p2p.wire.job import Failure, Input, decode_message


@pytest.fixture
async def scene(tmp_path: Path, echo_model: Path, autojump_clock: MockClock) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path, echo_model) as opened:
        yield opened


@pytest.fixture
def beside_the_stream(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """As if all that is received had come by data socket; the simulated network has none."""
    asked: bool = request.param
    if asked:
        monkeypatch.setattr(FramedStream, "doubt_bulk", lambda stream: True)
    return asked


BOTH = pytest.mark.parametrize("beside_the_stream", [True, False], indirect=True, ids=["beside", "authenticated"])


@BOTH
async def test_an_altered_input(autojump_clock: MockClock, scene: Scene, beside_the_stream: bool) -> None:
    stream, job = await scene.stream(), make_job(scene)
    await quoted(scene, stream, job)
    accept, sealed = accepted(job, await paid(scene, job))
    altered = bytes((sealed[0] ^ 1,)) + sealed[1:]
    await stream.send(accept.encode(), Input(job.job_id, altered, True).encode())
    answer = decode_message(await stream.receive())
    assert isinstance(answer, Failure)
    assert answer.code.name == "ENVELOPE"
    assert (scene.penalty() == 0) == beside_the_stream
    assert scene.provider.engine.jobs_done == 0
    await scene.honest_job_works()


@BOTH
async def test_an_altered_output(
    autojump_clock: MockClock, scene: Scene, beside_the_stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = job_provider.sealed_pieces

    def altered_pieces(*arguments: Any) -> Iterator[tuple[Any, bool]]:
        for ciphertext, final in honest(*arguments):
            ciphertext[0] ^= 1
            yield ciphertext, final

    with monkeypatch.context() as patch:
        patch.setattr(job_provider, "sealed_pieces", altered_pieces)
        with pytest.raises(CocoonError) as caught:
            await scene.client.node.run_payload(RunRequest("echo"), X)
    penalty = scene.client.node._parts.standing.of(scene.provider.node.peer_id).penalty
    if beside_the_stream:
        assert penalty < 10, "a failed job may cost a little, a forged envelope much"
        assert caught.value.retryable
    else:
        assert penalty >= 25
