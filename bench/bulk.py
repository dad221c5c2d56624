"""(c) How fast a large tensor travels."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import numpy as np
import trio
from numpy.typing import NDArray

from bench.figures import Aim, Figure, Result, ratios
from bench.nodes import CpuMeter, client, make_home, provider, python_server
from bench.plan import Plan, say
from bench.tls_echo import PIECE_BYTES, make_certificate, receive_into
from cocoon_p2p.execution.arrays import to_payload
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX as NO_LIMIT
from cocoon_p2p.node import Node, RunRequest
from cocoon_p2p.tensors import Payload
from cocoon_p2p.testing.models import copy_model

MEASURES = (
    "MB/s of one large sealed tensor there and back (bytes of both directions over the whole job, the model copies) beside "
    "a trio TLS stream that takes and returns as much"
)
WARM_UP_BYTES = 8_000_000


async def run(plan: Plan) -> Result:
    folder = plan.folder / "bulk"
    home = folder / "provider"
    make_home(home, {"copy": copy_model(folder, "uint8", [1, "bytes"])})
    certificate = make_certificate(folder / "tls.pem")
    tensor = np.random.default_rng(0).integers(0, 256, (1, plan.megabytes * 1_000_000), np.uint8)
    small = to_payload({"x": tensor[:, :WARM_UP_BYTES]})
    jobs: list[float] = []
    tls: list[float] = []
    with provider(home) as process, python_server("bench.tls_echo", str(certificate)) as port:
        async with client(folder / "client", process.address) as node:
            payload, meter = to_payload({"x": tensor}), CpuMeter(process)
            await _job_rate(node, small)
            await _tls_rate(certificate, port, tensor[:, :WARM_UP_BYTES])
            for number in range(plan.rounds):
                tls.append(await _tls_rate(certificate, port, tensor))
                with meter:
                    jobs.append(await _job_rate(node, payload))
                say(f"bulk: round {number + 1} of {plan.rounds}: {jobs[-1]:.0f} MB/s, TLS {tls[-1]:.0f} MB/s")
    return Result(
        "bulk",
        MEASURES,
        (
            Figure("trio TLS stream", "MB/s", tuple(tls)),
            Figure("sealed job", "MB/s", tuple(jobs)),
            Figure("job / TLS", "", ratios(jobs, tls), Aim(">=", 0.15)),
        ),
        {
            "megabytes_each_way": plan.megabytes,
            "cpu_ms_per_job": meter.ms_per_job(plan.rounds),
        },
    )


async def _job_rate(node: Node, payload: Payload) -> float:
    size = len(payload.tensors[0].data)
    begun = time.perf_counter()
    result = await node.run_payload(RunRequest("copy", max_price=NO_LIMIT, timeout_s=600), payload)
    took = time.perf_counter() - begun
    if result.payload.tensors[0].data != payload.tensors[0].data:
        raise ValueError("the model copies, and something else came back")
    return 2 * size / took / 1e6


async def _tls_rate(certificate: Path, port: int, tensor: NDArray[np.uint8]) -> float:
    """On a connection that is open already, as a warm job's is."""
    context = ssl.create_default_context(cafile=str(certificate))
    data = memoryview(tensor.reshape(-1).data)
    back = bytearray(len(data))
    stream = await trio.open_ssl_over_tcp_stream(
        "localhost", port, ssl_context=context, https_compatible=True, happy_eyeballs_delay=0.25
    )
    async with stream:
        await stream.do_handshake()
        begun = time.perf_counter()
        await stream.send_all(len(data).to_bytes(8))
        for start in range(0, len(data), PIECE_BYTES):
            await stream.send_all(data[start : start + PIECE_BYTES])
        await receive_into(stream, memoryview(back))
        took = time.perf_counter() - begun
    if data != back:
        raise ValueError("TLS brought something else back")
    return 2 * len(data) / took / 1e6
