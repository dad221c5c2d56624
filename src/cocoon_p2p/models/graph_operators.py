"""Which operators a model from a stranger may have, and how many they are when its functions are written out."""

from __future__ import annotations

from collections import Counter

from cocoon_p2p.limits import GRAPH_NESTING_MAX, GRAPH_NODES_MAX

Key = tuple[str, str, str]
"""Domain, name and overload of an operator or function."""

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""The standard's, its classic machine learning, and ONNX Runtime's own fused operators."""
_RESERVED = ("ai.onnx", "com.microsoft", "com.ms.", "org.pytorch.aten")
"""Domains that ONNX Runtime gives a meaning: no function may take one."""
REFUSED = frozenset({
    "EPContext", "Snpe",  # programs for an accelerator, from a file or as bytes
    "PyOp", "PyOpFunc", "PythonOp", "PythonOpGrad",  # Python code
    "ATen", "ATenOp", "ATenOpGrad", "ExternalOp",  # another library's code
})  # fmt: skip


class OperatorRefused(ValueError):
    """The message says which and why."""


class Operators:
    def __init__(self) -> None:
        self._scopes: dict[Key | None, Counter[Key]] = {None: Counter()}
        """What the graph (None) and each function are made of, inner graphs included."""
        self._all = 0
        self._sizes: dict[Key, int] = {}

    def define(self, domain: str, name: str, overload: str) -> Key:
        """A function of the model's own. Raises OperatorRefused."""
        key = (domain, name, overload)
        if not domain or domain.startswith(_RESERVED):
            raise OperatorRefused(f"it redefines the operator {_shown(key)}")
        if key in self._scopes:
            raise OperatorRefused(f"it defines the function {_shown(key)} twice")
        self._scopes[key] = Counter()
        return key

    def note(self, scope: Key | None, domain: str, name: str, overload: str) -> int:
        """An operator in the graph or in a function. Returns how many there are until now."""
        self._scopes[scope][domain, name, overload] += 1
        self._all += 1
        return self._all

    def count(self) -> int:
        """Operators when functions are written out; a number above GRAPH_NODES_MAX stands for any such. Raises OperatorRefused
        for an operator that is not let through, and for functions that call each other too deep, or in a circle."""
        for made_of in self._scopes.values():
            for key in made_of:
                self._check(key)
        return self._size(None, 0)

    def _check(self, key: Key) -> None:
        domain, name, _ = key
        if key in self._scopes:
            return
        if domain not in DOMAINS:
            raise OperatorRefused(f"the operator {_shown(key)} is of a domain that is not known here")
        if name in REFUSED:
            raise OperatorRefused(f"the operator {_shown(key)} runs code that cannot be looked at")

    def _size(self, scope: Key | None, depth: int) -> int:
        if depth > GRAPH_NESTING_MAX:
            raise OperatorRefused(f"its functions call each other deeper than {GRAPH_NESTING_MAX}, or in a circle")
        size = 0
        for key, times in self._scopes[scope].items():
            each = 1
            if key in self._scopes:
                if key not in self._sizes:
                    self._sizes[key] = self._size(key, depth + 1)
                each = self._sizes[key]
            size = min(size + times * each, GRAPH_NODES_MAX + 1)
        return size


def _shown(key: Key) -> str:
    domain, name, _ = key
    return repr(f"{domain}::{name}"[:80] if domain else name[:80])
