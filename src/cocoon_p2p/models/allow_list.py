"""The first wall against hostile models: which of the installed ones the operator has chosen himself.

A model that he added by hand is his choice, and so is one whose id he wrote down. Any other came from peers: it is run only where the
two other walls stand (execution/jail.py).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.ids import ModelId
from cocoon_p2p.models.registry import OPERATOR, InstalledModel


@dataclass(frozen=True, slots=True)
class AllowList:
    ids: Collection[ModelId] = ()
    """[provider] allow."""
    no_jail: str = ""
    """Why models from strangers cannot be run on this machine; "" where they can be."""

    def chosen(self, model: InstalledModel) -> bool:
        """Whether it is the operator's own choice."""
        return model.offer.origin == OPERATOR or model.model_id in self.ids

    def check(self, model: InstalledModel) -> None:
        """Raises ExecutionError(code="MODEL") for a model that must not be run here."""
        if self.no_jail and not self.chosen(model):
            raise ExecutionError(
                f"it came from a peer, and {self.no_jail}",
                code="MODEL",
                hint=f'if you trust it: allow = ["{model.model_id}"] in [provider] of node.toml',
            )
