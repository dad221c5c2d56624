"""[[upstream]] of node.toml: clusters of the operator's own, of which there may be several."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from cocoon_p2p.config_sections import key
from cocoon_p2p.ids import is_model_id
from cocoon_p2p.limits import (
    AMOUNT_NANOGRAM_MAX,
    GENERATION_TOKENS_MAX,
    JOB_TIMEOUT_MAX_S,
    NAME_CHARS_MAX,
    UPSTREAM_CONTEXT_DEFAULT,
    UPSTREAM_PARALLEL_MAX,
)
from cocoon_p2p.models.upstream_claim import UPSTREAM_KINDS, UPSTREAM_MODEL_CHARS_MAX

UPSTREAM_ABOUT = (
    "Models that a cluster of your own runs already can be offered through this node (docs/OPERATORS.md): by a table "
    "like this for each of them, without the # before its lines."
)
"""What stands in a node.toml without such a table, above an example of one."""


def problem_of_upstream_url(text: str) -> str | None:
    """What is wrong with the URL of a cluster; None when it is right."""
    try:
        parts = urlsplit(text)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right:
        return f"{text!r} is no address of a server; one looks like http://10.0.0.5:8000"
    if parts.username is not None or parts.password is not None:
        return "a key does not belong into the address: write it into a file, and name that as api_key_file"
    if parts.query or parts.fragment or parts.path.rstrip("/").endswith(("/v1", "/v2")):
        return f"{text!r} must end before the protocol's own path (/v1, /v2)"
    return None


def problem_of_name(text: str) -> str | None:
    """What is wrong with a model's name; None when it is right."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text) and not is_model_id(text):
        return None
    return f"{text!r} is not allowed as a model's name: letters, digits, '.', '_' and '-'"


@dataclass(frozen=True, slots=True)
class UpstreamSection:
    """One table [[upstream]]."""

    name: str = key(
        "", "What this node calls the model in its offers.", high=NAME_CHARS_MAX, needed=True, check=problem_of_name,
        example="llama",
    )  # fmt: skip
    kind: str = key(
        "openai", "The protocol that the cluster speaks. open-inference: the Open Inference Protocol, version 2 (Triton, KServe …); "
        "openai: the OpenAI API (vLLM, Ray Serve …).",
        choices=UPSTREAM_KINDS,
    )  # fmt: skip
    task: str = key(
        "generation", "What an OpenAI endpoint does. generation: chat and text completions; embedding: vectors of texts.",
        choices=("generation", "embedding"),
    )  # fmt: skip
    url: str = key(
        "", "Where it listens, without the protocol's own path, such as http://10.0.0.5:8000.",
        check=problem_of_upstream_url, needed=True, example="http://10.0.0.5:8000",
    )  # fmt: skip
    model: str = key(
        "", "What the cluster calls the model; it is part of the model's id.", high=UPSTREAM_MODEL_CHARS_MAX, needed=True,
        example="meta-llama/Llama-3.3-70B-Instruct",
    )  # fmt: skip
    api_key_file: str = key(
        "", "File with the key that the cluster wants, relative to this file; empty: it wants none."
    )
    price_base: int = key(
        -1, "Price of a job in nanogram; -1: price_base of [provider].", low=-1, high=AMOUNT_NANOGRAM_MAX,
    )  # fmt: skip
    price_per_item: int = key(
        -1, "Price of each item (a text, a row; with generation a token) in nanogram; -1: price_per_item, or price_per_token, of [provider].",
        low=-1, high=AMOUNT_NANOGRAM_MAX,
    )  # fmt: skip
    context: int = key(
        UPSTREAM_CONTEXT_DEFAULT, "Generation: tokens of prompt and answer together that the model takes.",
        low=16, high=GENERATION_TOKENS_MAX,
    )  # fmt: skip
    parallel: int = key(
        32, "Requests to it at the same time; further jobs wait.", low=1, high=UPSTREAM_PARALLEL_MAX,
    )  # fmt: skip
    timeout_s: float = key(
        60.0, "Seconds without a byte from it, after which a job is given up.", low=0.1, high=JOB_TIMEOUT_MAX_S
    )
