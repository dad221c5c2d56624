"""The doctor's stranger in a private network."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from cocoon_p2p.assembly import Backends
from cocoon_p2p.cli import doctor_stranger
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.home import Home, PrivateNetwork
from cocoon_p2p.node import Node

KEY = b"k" * 32


def test_the_key_of_its_network_is_in_no_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def note(folder: Path, **options: Any) -> AbstractAsyncContextManager[None]:
        given.update(options)
        return nullcontext()

    home = Home(tmp_path / "home")
    home.enter_private_network(PrivateNetwork(KEY, "ours"))
    monkeypatch.setattr(Node, "open", note)
    doctor_stranger._stranger(tmp_path / "stranger", home, ["/ip4/127.0.0.1/tcp/1"])
    assert given["backends"].private == PrivateNetwork(KEY, "ours")
    assert not (tmp_path / "stranger").exists()
    assert repr(KEY) not in repr(given)


async def test_a_node_enters_the_private_network_it_is_given(tmp_path: Path) -> None:
    private = PrivateNetwork(KEY, "ours")
    config = NodeConfig()
    folder = tmp_path / "node"
    listening = Node.open(folder, config=config, listen=["/ip4/127.0.0.1/tcp/0"], backends=Backends(private=private))
    async with listening as node:
        assert node.network()["fingerprint"] == private.fingerprint
        assert not list(folder.glob("network*"))
    assert not any(
        KEY in file.read_bytes() or KEY.hex().encode() in file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    )
