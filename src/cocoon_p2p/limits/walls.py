"""Bounds of the walls round models from strangers: what the guard lets through, what a jailed process may hold."""

from __future__ import annotations

from cocoon_p2p.limits.sizes import GIB, KIB

GRAPH_FILE_BYTES_MAX = 2 * GIB
"""What protobuf can read at all; larger models keep their weights in external data."""
GRAPH_NODES_MAX = 100_000
"""Operators of a model once its functions are written out, those within loops counted once. Unfused exports of the largest language
models have 20 000."""
GRAPH_FIELDS_MAX = 4_000_000
"""Fields of protobuf that the guard reads: forty a node. At 0.5 µs each this is 2 s, far below WORKER_START_TIMEOUT_S."""
GRAPH_NESTING_MAX = 16
"""Graphs within graphs (If, Loop), and functions that call functions; exporters write up to four."""
GRAPH_NAME_BYTES_MAX = 4 * KIB
"""A name of a tensor; exporters that write the whole path of a layer reach 300."""
GRAPH_CONSTANT_ELEMENTS_MAX = 1 << 31
"""Of a tensor that a model makes of nothing (ConstantOfShape, Expand to a constant shape): 8 GB of float32. The largest embedding
table in use has 2 × 10⁹ elements, and that one is data."""
GRAPH_IR_VERSIONS = (3, 13)
"""The first with operator sets; the last that ONNX Runtime 1.31 reads."""
GRAPH_OPSET_MAX = 28
"""Of the ONNX domain: the last one published."""
WORKER_FILES_MAX = 2048
"""Open files of a jailed process: a block of shared memory for each job's input (JOBS_IN_ALL_MAX), and for outputs."""
WORKER_FILES_WITH_DEVICE_MAX = 8192
"""The same for one with an accelerator, whose driver opens devices and memory by the hundred."""
