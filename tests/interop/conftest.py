"""Peers of other makes as fixtures. What cannot be had (makes.py) is skipped, and the summary says why."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from foreign import OpenForeign, open_json_lines_peer
from go_daemon import open_go_daemon
from isolation import shared_namespace, why_not
from makes import HERE, Unavailable, js_peer, wheel

T = TypeVar("T")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.interop)
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def open_foreign(implementation: str, request: pytest.FixtureRequest) -> OpenForeign:
    """Starts a peer of the make that the test is parametrized with."""
    opener: OpenForeign = request.getfixturevalue(f"open_{implementation}")
    return opener


@pytest.fixture(scope="session")
def open_py() -> OpenForeign:
    return partial(open_json_lines_peer, [sys.executable, HERE / "py_peer.py"])


@pytest.fixture(scope="session")
def open_js() -> OpenForeign:
    return partial(open_json_lines_peer, _or_skip(js_peer))


@pytest.fixture(scope="session")
def open_go() -> OpenForeign:
    folder = _or_skip(partial(wheel, "go", "go-libp2p"))
    (folder / "hivemind" / "hivemind_cli" / "p2pd").chmod(0o755)
    return partial(open_go_daemon, folder / "hivemind")


@pytest.fixture(scope="session")
def rust_folder() -> Path:
    return _or_skip(partial(wheel, "rust", "rust-libp2p"))


@pytest.fixture(scope="session")
def namespace() -> Iterator[Sequence[str]]:
    """What goes before the commands of those that meet out of the internet's reach."""
    reason = why_not()
    if reason is not None:
        pytest.skip(f"rust-libp2p is not tested: lattica asks a STUN server whatever it is told, and {reason}")
    with shared_namespace() as enter:
        yield enter


def _or_skip(get: Callable[[], T]) -> T:
    try:
        return get()
    except Unavailable as reason:
        pytest.skip(str(reason))
