"""js-libp2p in a headless browser, over WebSocket: the page of js/browser.mjs dials us and does everything that it can."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio
from foreign import ForeignError
from interop_nodes import open_node
from makes import Unavailable, browser_bundle, chromium

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.testing.net_contract import ECHO, KEY, TOPIC, echo

ECHO_BYTES = 1 << 20
RECORD, WORD, ANSWER = b"7:a record", "from the page", "from the node"
# It looks up and dials hosts of its maker otherwise. No name leads anywhere, whatever these leave.
_SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
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
    async with open_node(1) as network, network.subscribe(TOPIC, lambda author, data: True) as heard:
        network.set_handler(ECHO, echo)
        with pytest.raises(TransportError, match="nobody"):  # is there to take it: we hold it, and answer with it
            await network.dht_put(KEY, RECORD)
        words: list[tuple[PeerId, bytes]] = []

        async def converse() -> None:
            words.append(await anext(heard))
            await network.publish(TOPIC, ANSWER.encode())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(converse)
            seen = await visit(browser, tmp_path, f"{network.addresses()[0]}/ws/p2p/{network.peer_id}")
            nursery.cancel_scope.cancel()
        assert "Chrome" in seen["browser"]
        assert "/ws" in seen["address"]
        assert words == [(seen["own"], WORD.encode())]
        assert seen["heard"] == ANSWER
        assert seen["agent"] == "interop/1"
        assert ECHO in seen["protocols"]
        assert seen["echoed"] is True
        assert seen["record"] == RECORD.decode()
        assert all(ping >= 0 for ping in seen["pings"])


async def test_a_page_expects_somebody_else(browser: tuple[str, bytes], tmp_path: Path) -> None:
    async with open_node(1) as network, open_node(2) as absent:
        with pytest.raises(ForeignError, match=r"UnexpectedPeer|does not match|mismatch"):
            await visit(browser, tmp_path, f"{network.addresses()[0]}/ws/p2p/{absent.peer_id}")
        assert network.peers() == ()


async def visit(browser: tuple[str, bytes], folder: Path, address: str) -> dict[str, Any]:
    """What the page saw when it talked to us there. Raises ForeignError."""
    program, script = browser
    plan = {
        "address": address, "echoProtocol": ECHO, "echoBytes": ECHO_BYTES, "topic": TOPIC, "say": WORD, "recordKey": KEY
    }  # fmt: skip
    answer: dict[str, Any] = {}
    with site(script, plan) as (url, answered):
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                command = [program, *_SWITCHES, f"--user-data-dir={folder}", url]
                done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
                said = done.stderr.decode(errors="replace")
                raise ForeignError(f"the browser ended by itself ({done.returncode}): {said[-2000:]}")

            nursery.start_soon(run)
            answer = await trio.to_thread.run_sync(answered, abandon_on_cancel=True)
            nursery.cancel_scope.cancel()
    if "error" in answer:
        raise ForeignError(answer["error"])
    seen: dict[str, Any] = answer["ok"]
    return seen


@contextmanager
def site(script: bytes, plan: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A web site on loopback: the page, its plan; and a function that waits for its result."""
    result: dict[str, Any] = {}
    posted = threading.Event()
    bodies = {
        "/": ("text/html", b"<!doctype html><meta charset=utf-8><script type=module src=page.js></script>"),
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
