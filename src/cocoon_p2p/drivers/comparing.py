"""Compares answers without holding up the node, and without loading numpy into one that never compares any."""

from __future__ import annotations

import trio

from cocoon_p2p.limits import COMPARED_INLINE_BYTES_MAX
from cocoon_p2p.policy.agreement import Agreement
from cocoon_p2p.tensors import Payload, payload_bytes


async def compare(one: Payload, other: Payload, quantised: bool) -> Agreement:
    """As `execution.comparison.agree`; large answers in a thread."""
    from cocoon_p2p.execution.comparison import agree

    await trio.lowlevel.checkpoint()
    if payload_bytes(one) <= COMPARED_INLINE_BYTES_MAX:
        return agree(one, other, quantised=quantised)
    return await trio.to_thread.run_sync(lambda: agree(one, other, quantised=quantised))


async def compare_all(answers: list[Payload], quantised: bool) -> list[list[Agreement]]:
    """Each with each."""
    same = Agreement(0.0)
    table = [[same] * len(answers) for _ in answers]
    for i, one in enumerate(answers):
        for j in range(i):
            table[i][j] = table[j][i] = await compare(one, answers[j], quantised)
    return table
