"""What a graph takes or gives: one tensor's name, type and shape, as a manifest has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cocoon_p2p.limits import PAYLOAD_RANK_MAX, TENSOR_NAME_BYTES_MAX
from cocoon_p2p.models.manifest_fields import ManifestError, read_integer, read_list, read_object, read_text
from cocoon_p2p.tensors import DTYPES

DYNAMIC = -1


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of the model's graph."""

    name: str
    dtype: str
    """A key of `tensors.DTYPES`."""
    shape: tuple[int, ...] | None
    """-1 where a dimension is dynamic; None when the graph does not even say how many there are."""

    def __str__(self) -> str:
        return f"{self.dtype}{shape_text(self.shape)}"

    @property
    def leading_dynamic(self) -> bool:
        return bool(self.shape) and self.shape[0] == DYNAMIC  # type: ignore[index]


def shape_text(shape: Sequence[int] | None) -> str:
    """A shape for people: "[batch,384]", "[?]" for one that is dynamic elsewhere than in front."""
    if shape is None:
        return "[…]"
    words = [("batch" if i == 0 else "?") if dim == DYNAMIC else str(dim) for i, dim in enumerate(shape)]
    return f"[{','.join(words)}]"


def is_row_output(spec: TensorSpec) -> bool:
    """Whether an output has one row of fixed shape for each item of a batch."""
    return spec.leading_dynamic and spec.dtype != "string" and all(dim > 0 for dim in (spec.shape or ())[1:])


def spec_to_json(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": None if spec.shape is None else list(spec.shape)}


def spec_from_json(tree: Any) -> TensorSpec:
    """Raises ManifestError."""
    fields = read_object(tree, "a tensor", {"name", "dtype", "shape"})
    name = read_text(fields["name"], "name", TENSOR_NAME_BYTES_MAX)
    if not name or len(name.encode(errors="replace")) > TENSOR_NAME_BYTES_MAX:
        raise ManifestError(f"a tensor's name has 1 to {TENSOR_NAME_BYTES_MAX} bytes")
    dtype = read_text(fields["dtype"], "dtype", 16)
    if dtype not in DTYPES:
        raise ManifestError(f"tensor {name!r} has a dtype that is not known here")
    shape = fields["shape"]
    if shape is not None:
        shape = read_list(shape, "shape", PAYLOAD_RANK_MAX, lambda dim: read_integer(dim, "shape", DYNAMIC, 2**40))
    return TensorSpec(name, dtype, shape)
