"""Bounds on a provider's own cluster behind it (the engine `upstream`)."""

from __future__ import annotations

from cocoon_p2p.limits.sizes import KIB, MIB

UPSTREAM_CONNECT_TIMEOUT_S = 5.0
"""The cluster stands next door: one that takes longer is down."""
UPSTREAM_JSON_BYTES_MAX = 16 * MIB
"""A body in JSON, which is parsed in the node's own process: 0.2 s. Larger tensors need the binary extension, or base64."""
UPSTREAM_HEAD_BYTES_MAX = MIB
"""JSON before the tensors of a binary answer: 256 outputs of 4 KB."""
UPSTREAM_EVENT_BYTES_MAX = 256 * KIB
"""One event of a stream: a token with 20 alternatives has 4 KB."""
UPSTREAM_PARALLEL_MAX = 1024
"""Requests at the same time: as many as a provider has places for jobs."""
UPSTREAM_RETRY_S = 15.0
"""How often a cluster that was down at the start is asked again what it serves."""
UPSTREAM_ENTRIES_MAX = 32
"""[[upstream]] tables of one node: as many as it can announce beside models of its own."""
UPSTREAM_CONTEXT_DEFAULT = 131_072
"""Tokens of prompt and answer, where the operator does not say: what most large models of 2026 take. The cluster itself refuses what is
too long for it."""
UPSTREAM_KEY_BYTES_MAX = 8 * KIB
"""A file with an API key; the longest tokens in use (JSON web tokens) have 4 KB."""
UPSTREAM_CHARS_A_TOKEN = 4
"""Of a prompt whose tokens the cluster does not tell in time: English has four bytes a token."""
