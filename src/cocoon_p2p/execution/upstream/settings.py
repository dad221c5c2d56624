"""What an operator says of one upstream: a table [[upstream]] of node.toml, its API key read."""

from __future__ import annotations

from dataclasses import dataclass, field

from cocoon_p2p.models.manifest import EMBEDDING, GENERATION

UPSTREAM_TASKS = (GENERATION, EMBEDDING)


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    name: str
    """What this provider calls the model."""
    kind: str
    """One of `upstream_claim.UPSTREAM_KINDS`: the protocol that the cluster speaks."""
    url: str
    """Without the protocol's own path: http://10.0.0.5:8000"""
    model: str
    """What the cluster calls it."""
    task: str = GENERATION
    """Of an OpenAI endpoint: one of UPSTREAM_TASKS."""
    context: int = 0
    """Tokens of prompt and answer together that it takes; 0: not known here."""
    parallel: int = 32
    """Requests at the same time; further jobs wait."""
    timeout_s: float = 60.0
    """Seconds without a byte from it, after which a request is given up."""
    api_key: str = field(default="", repr=False)
