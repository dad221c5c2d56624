"""A model without files: what an operator's own cluster is said to serve. Its manifest's hash is the id of that claim, so
two providers who name the same model and signature offer the same thing, and nobody can pull it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cocoon_p2p.models.manifest_fields import ManifestError, read_choice, read_object, read_text

UPSTREAM_MODEL_CHARS_MAX = 200
OPENAI, OPEN_INFERENCE = UPSTREAM_KINDS = ("openai", "open-inference")
_KINDS: Mapping[str, tuple[str, ...]] = {OPENAI: ("generation", "embedding"), OPEN_INFERENCE: ("tensor",)}


@dataclass(frozen=True, slots=True)
class UpstreamClaim:
    kind: str
    """The protocol that it is reached by, one of UPSTREAM_KINDS."""
    model: str
    """What the cluster calls it: the operator's word, which nothing proves."""


def check_upstream(claim: UpstreamClaim, kind: str, parts: Mapping[str, object]) -> None:
    """Raises ManifestError where a manifest of this `kind` has one of `parts`, which only models with files have."""
    # SPEC manifest/1 §2.7
    if kind not in _KINDS[claim.kind]:
        raise ManifestError(f"an upstream of kind {claim.kind!r} serves no model of kind {kind!r}")
    if not claim.model or not claim.model.isprintable():
        raise ManifestError("an upstream model needs a name that can be shown")
    for name, part in parts.items():
        if part:
            raise ManifestError(f"an upstream model has no {name}")


def upstream_to_json(claim: UpstreamClaim) -> dict[str, Any]:
    return {"kind": claim.kind, "model": claim.model}


def upstream_from_json(tree: Any) -> UpstreamClaim:
    """Raises ManifestError."""
    fields = read_object(tree, "upstream", {"kind", "model"})
    return UpstreamClaim(
        read_choice(fields["kind"], "upstream.kind", UPSTREAM_KINDS),
        read_text(fields["model"], "upstream.model", UPSTREAM_MODEL_CHARS_MAX),
    )
