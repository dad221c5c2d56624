"""A hub on 127.0.0.1 that speaks as much of huggingface.co's HTTP as its library asks for, and can break off in mid-file."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "a" * 40


class Hub:
    """Serves ROOT/owner/repo/main/… as owner/repo at COMMIT."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fetched: list[str] = []
        """Files whose content was asked for, with the first byte where that was not 0."""
        self.cut_after: int | None = None
        """Close the connection after so many bytes of the next file."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

            def do_GET(self) -> None:
                hub.answer(self, head=False)

            def do_HEAD(self) -> None:
                hub.answer(self, head=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler, *, head: bool) -> None:
        path = handler.path.partition("?")[0]
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            folder, wanted = self.root / parts[2] / parts[3] / "main", parts[5] if len(parts) > 5 else "main"
            if not folder.is_dir() or wanted not in ("main", COMMIT):
                self._refuse(handler, "RepoNotFound" if not folder.is_dir() else "RevisionNotFound")
                return
            files = [each for each in sorted(folder.rglob("*")) if each.is_file()]
            siblings = [
                {"rfilename": each.relative_to(folder).as_posix(), "size": each.stat().st_size} for each in files
            ]
            info = {"_id": "0", "id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": siblings}
            self._send(handler, json.dumps(info).encode(), {"Content-Type": "application/json"}, head=head)
            return
        owner, repository, _, _, *rest = parts
        file = self.root / owner / repository / "main" / "/".join(rest)
        if not file.is_file():
            self._refuse(handler, "EntryNotFound")
            return
        self._send_file(handler, file, "/".join(rest), head=head)

    def _send_file(self, handler: BaseHTTPRequestHandler, file: Path, name: str, *, head: bool) -> None:
        data = file.read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        start = 0
        if given := handler.headers.get("Range"):
            start = int(given.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if not head:
            self.fetched.append(f"{name} from {start}" if start else name)
        self._send(handler, data[start:], headers, head=head, status=206 if start else 200)

    def _send(
        self, handler: BaseHTTPRequestHandler, data: bytes, headers: dict[str, str], *, head: bool, status: int = 200
    ) -> None:
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if head:
            return
        if self.cut_after is not None and len(data) > self.cut_after:
            handler.wfile.write(data[: self.cut_after])
            self.cut_after = None
            handler.close_connection = True
            return
        handler.wfile.write(data)

    def _refuse(self, handler: BaseHTTPRequestHandler, code: str) -> None:
        handler.send_response(404)
        handler.send_header("X-Error-Code", code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()


@contextmanager
def open_hub_server(root: Path) -> Iterator[Hub]:
    """The hub, while the block lasts."""
    hub = Hub(root)
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        thread.join()
        hub.server.server_close()
