"""A network namespace of its own for programs that would talk to the internet. Linux, root."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

HOST = "10.9.9.1"
"""The one address in it beside loopback."""
_SETUP = f'ip link set lo up && ip address add {HOST}/24 dev lo && ip route add default dev lo && exec "$@"'
ISOLATED: Sequence[str] = ("unshare", "--net", "sh", "-c", _SETUP, "sh")
"""Goes before a command that is to have one to itself."""


def why_not() -> str | None:
    """The reason when it cannot be had here."""
    missing = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]
    if missing:
        return f"no network namespace can be made without {', '.join(missing)}"
    tried = subprocess.run([*ISOLATED, "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() or "no network namespace can be made" if tried.returncode else None


@contextmanager
def shared_namespace() -> Iterator[Sequence[str]]:
    """What goes before each command that is to run in one and the same namespace. It ends with the last of them."""
    holder = subprocess.Popen([*ISOLATED, "sh", "-c", "echo ready; exec cat"], stdin=-1, stdout=-1)
    assert holder.stdin is not None and holder.stdout is not None
    try:
        ready = holder.stdout.readline()
        assert ready == b"ready\n", "why_not() says whether there can be one"
        yield ("nsenter", f"--net=/proc/{holder.pid}/ns/net")
    finally:
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()
