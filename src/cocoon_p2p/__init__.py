"""cocoon_p2p: run AI models on other people's computers, and let others run theirs on yours. Sealed, paid, no server.

from cocoon_p2p import Node

docs/DEVELOPERS.md shows how the names here are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cocoon_p2p.config import NodeConfig as NodeConfig
    from cocoon_p2p.drivers.quorum import NoQuorum as NoQuorum
    from cocoon_p2p.errors import CocoonError as CocoonError
    from cocoon_p2p.errors import ConfigError as ConfigError
    from cocoon_p2p.errors import ExecutionError as ExecutionError
    from cocoon_p2p.errors import PeerRefused as PeerRefused
    from cocoon_p2p.errors import ProtocolError as ProtocolError
    from cocoon_p2p.errors import RefusalReason as RefusalReason
    from cocoon_p2p.errors import SettlementError as SettlementError
    from cocoon_p2p.errors import StoreError as StoreError
    from cocoon_p2p.errors import TransportError as TransportError
    from cocoon_p2p.execution.arrays import to_arrays as to_arrays
    from cocoon_p2p.ids import Tier as Tier
    from cocoon_p2p.node import GeneratedToken as GeneratedToken
    from cocoon_p2p.node import Generation as Generation
    from cocoon_p2p.node import MapItem as MapItem
    from cocoon_p2p.node import Node as Node
    from cocoon_p2p.node import RunRequest as RunRequest
    from cocoon_p2p.node import RunResult as RunResult
    from cocoon_p2p.node import Session as Session
    from cocoon_p2p.node_jobs import payload_of as payload_of
    from cocoon_p2p.policy.preference import Balanced as Balanced
    from cocoon_p2p.policy.preference import Cheapest as Cheapest
    from cocoon_p2p.policy.preference import Fastest as Fastest
    from cocoon_p2p.policy.preference import MostReliable as MostReliable
    from cocoon_p2p.policy.preference import Preference as Preference
    from cocoon_p2p.policy.selection import Candidate as Candidate
    from cocoon_p2p.policy.selection import Wanted as Wanted

_HOMES = {
    "config": ("NodeConfig",),
    "drivers.quorum": ("NoQuorum",),
    "errors": (
        "CocoonError",
        "ConfigError",
        "ExecutionError",
        "PeerRefused",
        "ProtocolError",
        "RefusalReason",
        "SettlementError",
        "StoreError",
        "TransportError",
    ),
    "execution.arrays": ("to_arrays",),
    "ids": ("Tier",),
    "node": ("GeneratedToken", "Generation", "MapItem", "Node", "RunRequest", "RunResult", "Session"),
    "node_jobs": ("payload_of",),
    "policy.preference": ("Balanced", "Cheapest", "Fastest", "MostReliable", "Preference"),
    "policy.selection": ("Candidate", "Wanted"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first asked for, so that `cocoon-node --help` answers at once."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'cocoon_p2p' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"cocoon_p2p.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOME_OF)
