"""js-libp2p in a headless browser, over WebSocket: the page of js/browser.mjs dials us and does everything that it can."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio
from interop_nodes import open_node
from makes import Unavailable, browser_bundle, chromium

from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.testing.net_contract import ECHO, KEY, TOPIC, echo

ECHO_BYTES = 1 << 20
RECORD, WORD, ANSWER = b"7:a record", "from the page", "from the node"
# Without these it looks up and dials hosts of its maker.
_SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> tuple[str, bytes]:
    """The program, and the script of the page."""
    try:
        program, bundle = chromium(), browser_bundle()
    except Unavailable as reason:
        pytest.skip(str(reason))
    script = bundle.read_bytes()
    bundle.unlink()
    return program, script


async def test_a_page_uses_everything(browser: tuple[str, bytes], tmp_path: Path) -> None:
    program, script = browser
    async with open_node(1) as network:
        network.set_handler(ECHO, echo)
        async with heard_on(network) as heard:
            await publish_record(network)
            plan = {
                "address": f"{network.addresses()[0]}/ws/p2p/{network.peer_id}",
                "echoProtocol": ECHO, "echoBytes": ECHO_BYTES, "topic": TOPIC, "say": WORD, "recordKey": KEY,
            }  # fmt: skip
            with site(script, plan) as (url, answered):
                command = [program, *_SWITCHES, f"--user-data-dir={tmp_path}", url]
                async with trio.open_nursery() as nursery:
                    run = partial(trio.run_process, command, capture_stdout=True, capture_stderr=True, check=False)
                    nursery.start_soon(run)
                    author, data = await anext(heard)
                    await network.publish(TOPIC, ANSWER.encode())
                    answer = await trio.to_thread.run_sync(answered, abandon_on_cancel=True)
                    nursery.cancel_scope.cancel()
    assert "error" not in answer, answer["error"]
    seen = answer["ok"]
    assert "Chrome" in seen["browser"]
    assert "/ws" in seen["address"]
    assert (author, data.decode()) == (seen["own"], WORD)
    assert seen["heard"] == ANSWER
    assert seen["agent"] == "interop/1"
    assert ECHO in seen["protocols"]
    assert seen["echoed"] is True
    assert seen["record"] == RECORD.decode()
    assert all(ping >= 0 for ping in seen["pings"])


async def publish_record(network: Libp2pNetwork) -> None:
    """Nobody else is there to take it: we hold it, and answer with it."""
    with pytest.raises(Exception, match="nobody took"):
        await network.dht_put(KEY, RECORD)


@asynccontextmanager
async def heard_on(network: Libp2pNetwork) -> AsyncIterator[Any]:
    async with network.subscribe(TOPIC, lambda author, data: True) as messages:
        yield messages


@contextmanager
def site(script: bytes, plan: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A web site on loopback: the page, its plan; and a function that waits for its result."""
    result: dict[str, Any] = {}
    posted = threading.Event()
    bodies = {
        "/": ("text/html", b"<!doctype html><meta charset=utf-8><script src=page.js></script>"),
        "/page.js": ("text/javascript", script),
        "/plan": ("application/json", json.dumps(plan).encode()),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, body = bodies.get(self.path, ("text/plain", b""))
            self.send_response(200 if body else 404)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            result.update(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()
            posted.set()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def answered() -> dict[str, Any]:
        posted.wait()
        return result

    try:
        yield f"http://127.0.0.1:{server.server_port}/", answered
    finally:
        posted.set()
        server.shutdown()
        server.server_close()
        thread.join()
