"""Bounds of jobs, of their sealing and execution, and of the messages about them."""

from __future__ import annotations

from cocoon_p2p.limits.sizes import GIB, KIB, MIB

# --- jobs ------------------------------------------------------------------------------------------------------------
JOBS_PER_PEER_MAX = 64
"""Quoted or running jobs of one client at one provider; the benchmark keeps 32 in flight."""
JOBS_IN_ALL_MAX = 1024
QUOTE_LIFETIME_S = 10.0
"""Time to seal and to begin sending; long enough for a slow laptop, short against price changes."""
JOB_TIMEOUT_DEFAULT_S = 60.0
JOB_TIMEOUT_MAX_S = 3600.0
JOB_INPUT_IDLE_TIMEOUT_S = 15.0
"""A client that sends no piece of its input for this long loses the job: half-sent inputs hold memory."""
JOB_BYTES_MAX = 2 * GIB
"""Input or output of one job: the largest that one shared-memory block is asked for."""
JOB_BYTES_IN_FLIGHT_MAX = 4 * GIB
"""Inputs of all jobs together; a configuration key lowers it on small machines."""
ITEMS_PER_JOB_MAX = 4096
CHUNK_BYTES = 64 * KIB
"""Plaintext of one sealed chunk (the STREAM construction in 64 KiB chunks)."""
CHUNK_OVERHEAD_BYTES = 16
"""The AES-GCM tag."""
CHUNKS_PER_FRAME_MAX = 16
"""16 × 64 KiB = 1 MiB of plaintext a frame."""
BOX_BYTES_MAX = 4 * KIB
"""HPKE X-Wing: 1120 bytes of encapsulated key, 64 of secrets, a tag; the rest is room for extensions."""
HEADER_BYTES_MAX = KIB
PAYMENT_BYTES_MAX = KIB
PAYLOAD_ALIGNMENT = 64
"""Payloads are padded to, and tensors within them aligned at, 64 bytes: a cache line, and the bucket that hides lengths."""
PAYLOAD_TENSORS_MAX = 256
PAYLOAD_RANK_MAX = 16
TENSOR_NAME_BYTES_MAX = 255
RECEIPTS_RESENT_MAX = 16
OUTCOMES_ASKED_MAX = 16
"""Jobs that a client asks about at the start of a stream: as many as the receipts that it may get then."""
CLOSED_JOBS_REMEMBERED_MAX = 65_536
"""Replay memory of one provider: 48 bytes each; ids expire with their envelopes."""


# --- sealing ---------------------------------------------------------------------------------------------------------
SEAL_KEY_ROTATION_S = 600.0
SEAL_KEY_GRACE_S = 120.0
"""How long an old seal key still opens envelopes: quote lifetime plus sending."""
ENVELOPE_LIFETIME_MAX_S = 3600.0


# --- execution -------------------------------------------------------------------------------------------------------
BATCH_ITEMS_MAX = 16
"""MiniLM gains nothing above (measured)."""
ENGINE_QUEUE_MAX = 256
WORKER_START_TIMEOUT_S = 60.0
"""A 2 GB model loads in under 20 s from a slow disk."""
WORKER_INLINE_BYTES_MAX = 64 * KIB
"""Below this a pipe is as fast as shared memory (measured: 22 µs against 17 µs at 1 KB, 0.58 ms against 41 µs at 1 MB)."""
TEXT_CHARS_MAX = 100_000


# --- models and the engine's worker processes ------------------------------------------------------------------------
MANIFEST_BYTES_MAX = 256 * KIB
"""256 tensors and 256 files at about 400 bytes each are 200 KiB."""
MANIFEST_FILES_MAX = 256
"""The largest published models have some 200 pieces of external data."""
MODEL_BYTES_MAX = 1024 * GIB
TOKENIZER_BYTES_MAX = 64 * MIB
"""Multilingual tokenizers reach 17 MB."""
TEXT_TOKENS_MAX = 8192
"""The longest context of embedding models in use."""
MODEL_INSPECTION_TIMEOUT_S = 300.0
"""Reading the graph of a 2 GB file from a slow disk takes some 20 s."""
ENGINE_IDLE_BLOCK_BYTES_MAX = 64 * MIB
"""Shared memory that a process keeps for the next jobs, so that they pay no page faults (0.25 ms a MB)."""
ENGINE_SET_JOBS_MAX = 64
"""Jobs handed to a worker at once; a descriptor may go with each, and the kernel passes 253 in one message."""
WORKER_RESTART_DELAY_S = 0.05
"""Before the first restart of a worker that died; doubled for each death without a finished job in between."""
WORKER_RESTART_DELAY_MAX_S = 10.0
WORKER_TERMINATE_TIMEOUT_S = 1.0
"""A cancelled run ends between two kernels (19–68 ms measured); one that takes longer is ended with its process."""
DEVICE_PROBE_TIMEOUT_S = 30.0
"""A first CUDA context takes 1–5 s, TensorRT's builder up to 15 s."""


# --- wire/ -----------------------------------------------------------------------------------------------------------
WIRE_ARRAY_LENGTH_MAX = 256
"""Entries of any msgpack array: four times the longest that a message has (64 offers). msgpack reserves 8 bytes an entry
before it reads one, at up to 1024 levels: 2 MB for a hostile frame."""
SETTLEMENT_NETWORKS_MAX = 8
"""Networks that one announcement names; three exist."""
SEAL_KEY_RECORD_BYTES_MAX = 2 * KIB
"""A signed seal key record: 1216 bytes of key, 64 of signature, 100 round them."""
