"""What a text job gets where the graph itself gives less: one vector of one for each token, scores of logits (manifest/1 §2.4).

Float32 throughout. Pooling is as sentence-transformers does it (Reimers & Gurevych 2019), scores as transformers'
TextClassificationPipeline does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cocoon_p2p.models.text_part import CLS, MEAN, SIGMOID, SOFTMAX, Pooling, TextFrontEnd

Floats = NDArray[np.float32]
_LEAST_COUNT, _LEAST_LENGTH = 1e-9, 1e-12
"""sentence-transformers' and PyTorch's own: nothing is divided by zero."""
_PADDING = np.float32(-1e9)


def computed(text: TextFrontEnd) -> bool:
    """Whether the text part's outputs are computed here, and not the graph's own."""
    return text.pooling is not None or text.logits is not None


def compute(text: TextFrontEnd, values: dict[str, NDArray[Any]], mask: NDArray[Any]) -> dict[str, Floats]:
    """From the graph's outputs (`TextFrontEnd.runs`) of a batch, and its mask [batch, tokens] with 1 for what is no padding:
    the text part's one output, float32[batch, n]. Raises ValueError for an output of another shape."""
    (name,) = text.outputs
    (given,) = (np.asarray(values[each]) for each in text.runs)
    if text.pooling is not None:
        return {name: pool(given, mask, text.pooling)}
    if given.shape != (len(mask), len(text.labels)):
        raise ValueError(f"the graph gave {text.logits!r} with another shape than [batch, {len(text.labels)}]")
    return {name: activate(given, text.activation)}


def pool(hidden: NDArray[Any], mask: NDArray[Any], pooling: Pooling) -> Floats:
    """float32[batch, fixed] of float[batch, tokens, fixed]. Raises ValueError for an output of another shape."""
    if hidden.ndim != 3 or hidden.shape[:2] != mask.shape or not hidden.shape[1]:
        raise ValueError(f"the graph gave {pooling.output!r} without a vector for each token")
    vectors = hidden.astype(np.float32, copy=False)
    if pooling.how == CLS:
        pooled = vectors[:, 0]
    elif pooling.how == MEAN:
        present = mask.astype(np.float32)
        counts = np.maximum(present.sum(axis=1, keepdims=True), np.float32(_LEAST_COUNT))
        pooled = np.matmul(present[:, None, :], vectors)[:, 0] / counts
    else:
        pooled = np.where(mask[:, :, None] != 0, vectors, _PADDING).max(axis=1)
    if pooling.normalize:
        lengths = np.sqrt(np.square(pooled).sum(axis=1, keepdims=True))
        pooled = pooled / np.maximum(lengths, np.float32(_LEAST_LENGTH))
    return np.ascontiguousarray(pooled, np.float32)


def activate(logits: NDArray[Any], activation: str) -> Floats:
    """Scores float32[batch, labels] of logits; softmax over the labels, sigmoid of each by itself, or the logits as they are."""
    scores = logits.astype(np.float32, copy=False)
    if activation == SOFTMAX:
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores = powers / powers.sum(axis=1, keepdims=True)
    elif activation == SIGMOID:
        scores = np.float32(0.5) * (np.tanh(scores * np.float32(0.5)) + np.float32(1))  # exp would overflow
    return np.ascontiguousarray(scores, np.float32)
