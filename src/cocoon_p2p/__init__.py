"""cocoon_p2p: run AI models on other people's computers, and let others run theirs on yours. Sealed, paid, no server.

from cocoon_p2p import Node
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cocoon_p2p.config import NodeConfig as NodeConfig
    from cocoon_p2p.node import Node as Node
    from cocoon_p2p.node import RunRequest as RunRequest
    from cocoon_p2p.node import RunResult as RunResult

__all__ = ["Node", "NodeConfig", "RunRequest", "RunResult"]
_HOMES = {"Node": "node", "RunRequest": "node", "RunResult": "node", "NodeConfig": "config"}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first asked for, so that `cocoon-node --help` answers at once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cocoon_p2p' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"cocoon_p2p.{_HOMES[name]}"), name)
