"""Every bound of the program, each with where its number comes from. One place, so that nothing is unbounded by oversight.

Sizes are in bytes (`_bytes_`), times in seconds (`_s`), unless the name says otherwise.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- frames and streams (net/) ---------------------------------------------------------------------------------------
FRAME_BYTES_MAX = MIB + 64 * KIB
"""One frame on a stream: 1 MiB of payload and what a message puts round it. The network moves bulk fastest in pieces of
about 1 MB (NETWORK measurements); a peer that frames more is wrong or hostile."""
STREAMS_PER_PEER_MAX = 64
"""One job stream, one capacity stream, DHT and gossip streams of a healthy peer stay below 20; py-libp2p blocks in
silence at 256."""
CONNECTIONS_MAX = 512
"""At 0.08 MB a connection (measured) 41 MB."""
HANDSHAKES_PER_ADDRESS_MAX = 16
"""Simultaneous unfinished handshakes from one IP address: 250 silent sockets shut py-libp2p up for 10 s; machines behind
one NAT rarely begin more than a few at the same moment."""
HANDSHAKE_TIMEOUT_S = 3.0
"""A handshake is three messages: 10 ms on loopback; ten round trips of a 300 ms path."""
DIAL_TIMEOUT_S = 5.0
KEEPALIVE_INTERVAL_S = 10.0
KEEPALIVE_MISSES_MAX = 2
"""A peer that leaves two pings unanswered is gone."""
STREAM_OPEN_TIMEOUT_S = 5.0
NET_EVENTS_QUEUE_MAX = 1024

# --- DHT and gossip --------------------------------------------------------------------------------------------------
DHT_VALUE_BYTES_MAX = 16 * KIB
"""A signed announcement of MODELS_PER_ANNOUNCEMENT_MAX models is below 12 KiB."""
DHT_LOOKUP_TIMEOUT_S = 3.0
"""With 30 % of peers frozen an uncapped lookup takes 20–40 s (measured)."""
DHT_PROVIDERS_MAX = 64
GOSSIP_MESSAGE_BYTES_MAX = 16 * KIB
GOSSIP_QUEUE_MAX = 1024
GOSSIP_MESSAGES_PER_PEER_S = 10.0
"""An honest node announces every 30 s and when something changes; py-libp2p drops above 10 in silence."""

# --- capacity announcements ------------------------------------------------------------------------------------------
ANNOUNCEMENT_LIFETIME_S = 60.0
"""So a provider that died is out of everybody's book within a minute (PAYMENTS: offers expire in 60 s)."""
ANNOUNCEMENT_INTERVAL_S = 25.0
"""Two chances before the last one expires."""
ANNOUNCEMENT_MIN_INTERVAL_S = 1.0
"""Changes in between are gathered: at most one announcement a second, a tenth of what gossip lets through."""
ANNOUNCEMENT_CLOCK_SKEW_S = 10.0
"""NTP keeps machines well within a second; ten leave room for a laptop that just woke up."""
MODELS_PER_ANNOUNCEMENT_MAX = 64
ADDRESSES_PER_ANNOUNCEMENT_MAX = 16
ADDRESS_CHARS_MAX = 256
NAME_CHARS_MAX = 64
DEVICE_CHARS_MAX = 64
AGENT_CHARS_MAX = 64
DETAIL_CHARS_MAX = 512
BOOK_PEERS_MAX = 10_000
"""At about 2 KB each 20 MB; the least recently heard goes first."""

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
"""Plaintext of one sealed chunk (CONFIDENTIALITY: STREAM construction in 64 KiB chunks)."""
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
CLOSED_JOBS_REMEMBERED_MAX = 65_536
"""Replay memory of one provider: 48 bytes each; ids expire with their envelopes."""

# --- sealing ---------------------------------------------------------------------------------------------------------
SEAL_KEY_ROTATION_S = 600.0
SEAL_KEY_GRACE_S = 120.0
"""How long an old seal key still opens envelopes: quote lifetime plus sending."""
ENVELOPE_LIFETIME_MAX_S = 3600.0

# --- execution -------------------------------------------------------------------------------------------------------
BATCH_ITEMS_MAX = 16
"""MiniLM gains nothing above (EXECUTION measurements)."""
ENGINE_QUEUE_MAX = 256
WORKER_START_TIMEOUT_S = 60.0
"""A 2 GB model loads in under 20 s from a slow disk."""
WORKER_INLINE_BYTES_MAX = 64 * KIB
"""Below this a pipe is as fast as shared memory (EXECUTION: 22 µs against 17 µs at 1 KB, 0.58 ms against 41 µs at 1 MB)."""
TEXT_CHARS_MAX = 100_000

# --- money -----------------------------------------------------------------------------------------------------------
AMOUNT_NANOGRAM_MAX = 2**63 - 1
"""Fits SQLite's signed 64-bit integer; 9.2 billion GRAM, more than there are."""
LOCAL_GRANT_NANOGRAM = 10 * 1_000_000_000
"""Play money that a new `local` wallet begins with."""
LOCAL_DEPOSIT_NANOGRAM = 500_000_000
"""0.5 GRAM a channel, the least of the recommended 0.5–5 GRAM."""
DEPOSIT_NANOGRAM_MAX = 20 * 1_000_000_000
"""Our own client refuses to lock more in one channel while the contract is unaudited."""

# --- standing --------------------------------------------------------------------------------------------------------
STANDING_BAN_S = 600.0

# --- local API -------------------------------------------------------------------------------------------------------
API_BODY_BYTES_MAX = JOB_BYTES_MAX + MIB
API_LIST_ROWS_MAX = 1000
