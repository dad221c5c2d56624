"""The demo's last act: the provider that runs a job is killed in mid-run, and the job ends at another one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from cocoon_p2p.cli.demo_network import Children, RunningNode, in_thread
from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.errors import CocoonError

if TYPE_CHECKING:
    from cocoon_p2p.cli.api_client import LocalApi
    from cocoon_p2p.tensors import Payload

JOB_MS = 1500.0
"""How long the job should take, so that there is a middle in which to kill its provider."""
KILL_AT = 0.15
"""After this share of it: a provider that is not busy with anything else any more may be several times as quick."""
TEXTS_MAX = 512
"""Half of what a provider takes in one job by default."""
SEEN_TIMEOUT_S = 20.0
LOOK_AGAIN_S = 0.01


@dataclass(frozen=True, slots=True)
class Handover:
    """What became of the job. Times in milliseconds."""

    texts: int
    killed: str
    killed_after_ms: float
    """From giving the job to the client until the kill."""
    finished_by: str
    answer_after_ms: float
    """From the kill to the whole answer."""
    work_ms: float
    """Of that, the second provider's own work, by its word."""
    price_nanogram: int
    providers_paid: int
    largest_difference: float
    """Between the answer's vectors and those of the same texts earlier."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def texts_for(paragraphs: Sequence[str], ms_a_text: float) -> list[str]:
    """So many paragraphs, over and over, that a job of them takes about JOB_MS."""
    count = min(max(round(JOB_MS / max(ms_a_text, 0.1)), len(paragraphs)), TEXTS_MAX)
    return [paragraphs[number % len(paragraphs)] for number in range(count)]


@dataclass(frozen=True, slots=True)
class KilledRun:
    """A job whose first provider was killed. Times in milliseconds."""

    result: dict[str, Any]
    output: Payload
    killed: str
    killed_after_ms: float
    answer_after_ms: float
    receipts: int
    """That the client holds for this job."""


async def run_and_kill(
    children: Children,
    client: RunningNode,
    names: Mapping[str, str],
    payload: Payload,
    *,
    model: str,
    kill_after_ms: float,
) -> KilledRun:
    """Give the client a job, look who got it, and kill that process as `kill -9` does. Raises CocoonError."""
    head = {"model": model}
    api = await in_thread(client.api)
    known = {job["job_id"] for job in (await in_thread(partial(api.get, "/v1/jobs", limit=1000)))["jobs"]}
    started = time.perf_counter()
    answers: list[tuple[dict[str, Any], Payload, float]] = []

    async def run() -> None:
        result, output = await in_thread(partial(api.run, head, payload))
        answers.append((result, output, time.perf_counter()))

    async with open_plain_nursery() as nursery:
        nursery.start_soon(run)
        provider = await _provider_of_new_job(api, known)
        await trio.sleep(kill_after_ms / 1000)  # into the middle of the work
        children.kill(names[provider])
        killed_at = time.perf_counter()
    result, output, ended = answers[0]
    receipts = (await in_thread(partial(api.get, "/v1/receipts", limit=1000)))["receipts"]
    return KilledRun(
        result=result,
        output=output,
        killed=names[provider],
        killed_after_ms=1000 * (killed_at - started),
        answer_after_ms=1000 * (ended - killed_at),
        receipts=sum(receipt["job_id"] == result["job_id"] for receipt in receipts),
    )


async def _provider_of_new_job(api: LocalApi, known: set[str]) -> str:
    with trio.move_on_after(SEEN_TIMEOUT_S):
        while True:
            jobs = (await in_thread(partial(api.get, "/v1/jobs", limit=4)))["jobs"]
            for job in jobs:
                if job["job_id"] not in known and job["state"] == "running":
                    return str(job["peer_id"])
            await trio.sleep(LOOK_AGAIN_S)
    raise CocoonError(f"the client has not given its job to anybody within {SEEN_TIMEOUT_S:.0f} s")
