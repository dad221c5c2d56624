"""A reset of ours ends a `receive` that waits at that moment. The library forgets the event that its reader waits for; a
client whose provider was killed then waited for the answer for ever, when it noticed by writing before it did by reading.
"""

from __future__ import annotations

import pytest
import trio
import trio.testing
from net_nodes import open_node

from cocoon_p2p.errors import TransportError
from cocoon_p2p.net.port import Stream

QUIET = "/test/quiet/1"


async def never_answer(stream: Stream) -> None:
    await stream.receive()
    await trio.sleep_forever()


async def test_a_reset_wakes_whoever_receives() -> None:
    async with open_node(1) as server, open_node(2) as client:
        server.set_handler(QUIET, never_answer)
        await client.connect(server.peer_id, server.addresses())
        stream = await client.open_stream(server.peer_id, QUIET)
        await stream.send(b"question")
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(TransportError):
                    await stream.receive()

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await stream.reset()
