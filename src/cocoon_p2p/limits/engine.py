"""Bounds of the engine as a pool: which models are loaded, on what, and what a job may take."""

from __future__ import annotations

from cocoon_p2p.limits.sizes import GIB, MIB

MEMORY_BUDGET_SHARE = 0.5
"""Of the machine's memory, for loaded models: the other half is for jobs' tensors, the disk cache, and the machine's owner."""
MEMORY_BUDGET_MIN_BYTES = 512 * MIB
"""MiniLM in its worker takes 130 MB (measured)."""
JOB_MEMORY_SHARE = 0.25
"""Of the machine's memory, for what one run takes beside the model itself."""
JOB_MEMORY_MIN_BYTES = GIB
"""An input of 100 MB may well become 1 GB of intermediate tensors."""
MODEL_BYTES_FACTOR = 1.25
"""What a model takes of its files' size before it was ever loaded: ONNX Runtime keeps some weights twice, packed (measured with 256 and
640 MB of weights: 386 and 714 MB, the worker's own part included)."""
WORKER_BYTES = 96 * MIB
"""What a worker takes without a model, its threads and buffers at work included: 34 MB at rest (measured)."""
MODEL_LOAD_BYTES_S = 150 * MIB
"""How fast a model loads before it was ever loaded here: verified, read, optimised (measured on one core: 200 to 290 MB/s)."""
UNLOAD_IDLE_DEFAULT_MINUTES = 60.0
POOL_TEND_S = 1.0
"""How often the pool looks for idle models and long queues."""
ROOM_PATIENCE_S = 5.0
"""A model that waits so long for room makes one of those at work finish its jobs and go: two that do not fit together take turns."""
REPLICA_AFTER_S = 3.0
"""A queue longer than a batch for so long gets a second worker: a shorter one would be gone before that has loaded."""
REPLICA_IDLE_S = 60.0
"""A second worker that had nothing to do for so long ends."""
REPLICAS_MAX = 64
DEVICES_MAX = 16
"""GPUs of one machine: the largest servers have 16."""
WORKER_WATCH_S = 0.2
"""How often a worker at work is looked at: its memory, its time."""
JOB_RUN_SECONDS_DEFAULT = 600.0
"""Ten times what clients wait by default."""
WORKER_START_BYTES_S = 20 * MIB
"""A model is given a second more to load for so many bytes, beyond WORKER_START_TIMEOUT_S: a slow disk reads them in that."""
PROBLEM_KEPT_S = 600.0
"""A model that could not be loaded is not offered for so long."""
KV_BUDGET_SHARE = 0.25
"""Of the memory for models, for keys and values of one that generates: on a small machine its weights must fit beside them."""
