"""Bounds on models as content: manifests, files and their pieces."""

from __future__ import annotations

from cocoon_p2p.limits.sizes import GIB, KIB, MIB

BLOB_CHUNK_BYTES = MIB
"""Piece of a file that is verified by itself: 60 hashes a file of 60 MB, 0.6 ms of SHA-256, and 32 KB of hashes for 1 GB."""
MODEL_CONTEXT_MAX = 1 << 20
"""Tokens that a model can look back on: as many as a generation may have."""
MODEL_VOCABULARY_MAX = 1 << 20
"""Four times the largest vocabulary in use (262 144, Gemma 3)."""
MODEL_LAYERS_MAX = 126
"""Two inputs a layer, ids, mask and positions within PAYLOAD_TENSORS_MAX; the deepest models in use have as many (Llama 3.1 405B)."""
MODEL_HEADS_MAX = 1024
"""Key/value heads of a layer: eight times those of the widest model in use."""
MODEL_HEAD_SIZE_MAX = 1024
"""Numbers of one head's key: twice the widest in use (512)."""
MODEL_END_TOKENS_MAX = 32
"""Tokens that end an answer: chat models have up to five."""
MODEL_LABELS_MAX = 4096
"""Names of what a classifier tells apart: ImageNet's 1000 with room; more would not fit a manifest."""
MODEL_LABEL_CHARS_MAX = 128
"""The longest label of a published classifier has 90."""
MODEL_STATES_MAX = 64
"""Tensors of state of a recurrent model: two a layer of 32 layers."""
CHAT_TEMPLATE_BYTES_MAX = 256 * KIB
"""The longest chat templates in use have 20 KB."""
MODEL_SETTINGS_BYTES_MAX = 4 * MIB
"""Of config.json, genai_config.json and the like; tokenizer_config.json with a thousand added tokens has 200 KB."""
DISK_RESERVE_BYTES = GIB // 4
"""Room that adding a model leaves on a disk: the ledger and the books must still be written."""
