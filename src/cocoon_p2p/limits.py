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
about 1 MB (measured); a peer that frames more is wrong or hostile."""
STREAMS_PER_PEER_MAX = 64
"""One job stream, one capacity stream, DHT and gossip streams of a healthy peer stay below 20; py-libp2p blocks in
silence at 256."""
STREAM_WINDOW_BYTES_MAX = 4 * MIB
"""Unread bytes of one stream: 80 MB/s at a round-trip time of 50 ms. A stream that nobody reads holds 256 KiB."""
CONNECTIONS_MAX = 512
"""At 0.08 MB a connection (measured) 41 MB."""
CONNECTIONS_KEPT = 96
"""Above this the least recently used connections that carry no job are closed: lookups connect to whom they ask."""
CONNECTIONS_PER_PEER_MAX = 4
"""Two peers that dial each other at the same moment have two."""
DIALS_PER_PEER_MAX = 8
"""Addresses of one peer that are tried, all at once."""
ADDRESS_BOOK_PEERS_MAX = 10_000
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
PING_TIMEOUT_S = 5.0
"""Longer than any round trip of the internet; a peer that answers later is not there for any practical purpose."""
NET_EVENTS_QUEUE_MAX = 1024

# --- DHT and gossip --------------------------------------------------------------------------------------------------
DHT_VALUE_BYTES_MAX = 16 * KIB
"""A signed announcement of MODELS_PER_ANNOUNCEMENT_MAX models is below 12 KiB."""
DHT_LOOKUP_TIMEOUT_S = 3.0
"""With 30 % of peers frozen an uncapped lookup takes 20–40 s (measured)."""
DHT_PROVIDERS_MAX = 64
DHT_RECORDS_MAX = 4096
"""Values that one node keeps for others: 64 MB at most; the oldest goes first."""
DHT_CONTENTS_MAX = 4096
"""Content ids whose providers one node keeps, each at most DHT_PROVIDERS_MAX."""
DHT_RECORD_LIFETIME_S = 3600.0
"""A value is republished whenever it changes (announcements: every 25 s); its own expiry is inside it."""
DHT_PROVIDER_LIFETIME_S = 900.0
"""Three times DHT_REPUBLISH_INTERVAL_S; the library keeps them for 48 hours."""
DHT_REPUBLISH_INTERVAL_S = 300.0
DHT_RPC_TIMEOUT_S = 1.5
"""Asking one peer, dialling it included: half a lookup, so that frozen peers do not use it up."""
DHT_PARALLEL_RPCS = 4
DHT_BUCKET_PEERS_MAX = 20
"""Kademlia's k: a record is kept at the k nearest peers."""
DHT_QUORUM = 4
"""Peers that answered with a valid record before a lookup stops asking more."""
GOSSIP_MESSAGE_BYTES_MAX = 16 * KIB
GOSSIP_QUEUE_MAX = 1024
GOSSIP_MESSAGES_PER_PEER_S = 10.0
"""An honest node announces every 30 s and when something changes; py-libp2p drops above 10 in silence."""

GOSSIP_MESSAGES_PER_LINK_S = 200.0
"""What one neighbour may hand on, of whatever authors: 20 authors at their own limit, 2 % of a core in signatures."""
GOSSIP_RPC_BYTES_MAX = 256 * KIB
"""Several messages and a heartbeat's control in one; go-libp2p's default is 1 MiB."""
GOSSIP_SEEN_S = 120.0
"""go-libp2p's; a message that comes back later would be taken as new, so announcements carry their own expiry."""
GOSSIP_SEEN_MAX = 65_536
GOSSIP_TOPICS_PER_PEER_MAX = 64
GOSSIP_OUT_QUEUE_MAX = 256
"""RPCs waiting for a slow neighbour; the library drops above 32."""
GOSSIP_HEARTBEAT_S = 1.0
"""The specification's; py-libp2p's default is 120 s."""

# --- capacity announcements ------------------------------------------------------------------------------------------
ANNOUNCEMENT_LIFETIME_S = 60.0
"""So a provider that died is out of everybody's book within a minute."""
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

# --- wire/ -----------------------------------------------------------------------------------------------------------
WIRE_ARRAY_LENGTH_MAX = 256
"""Entries of any msgpack array: four times the longest that a message has (64 offers). msgpack reserves 8 bytes an entry
before it reads one, at up to 1024 levels: 2 MB for a hostile frame."""
SETTLEMENT_NETWORKS_MAX = 8
"""Networks that one announcement names; three exist."""
SEAL_KEY_RECORD_BYTES_MAX = 2 * KIB
"""A signed seal key record: 1216 bytes of key, 64 of signature, 100 round them."""

# --- store/, settlement/ and policy/ ---------------------------------------------------------------------------------
JOBS_KEPT_MAX = 20_000
"""Finished jobs that are remembered, at about 300 bytes each; they are for people to look at."""
RECEIPTS_KEPT_MAX = 200_000
"""Evidence, so more of them: at about 600 bytes each 120 MB."""
DATABASE_CHECK_BYTES_MAX = 64 * MIB
"""A database up to this size is checked as a whole when it is opened: 0.04 s (measured)."""
OUTCOMES_COUNTED_MAX = 100
"""Last jobs of a provider that its reliability is judged by: enough for a percent, and what is long ago does not count."""
DATABASE_LOCK_TIMEOUT_S = 1.0
"""Nobody but the CLI, which only reads, shares a database with the node."""
DATABASE_WAL_BYTES_KEPT_MAX = 16 * MIB
LOCAL_CHALLENGE_PERIOD_S = 0
"""Play money has no chain on which a payee could object in the meantime."""
CHANNELS_PER_PAYER_MAX = 16
"""Open channels that one payer may have with us: an honest one needs one, and a new one when it lost its ledger."""
CHANNELS_KEPT_MAX = 100_000
"""Channels in a ledger, at about 800 bytes each 80 MB; beyond that the idle one that was used longest ago goes."""
RESERVATIONS_KEPT_MAX = CLOSED_JOBS_REMEMBERED_MAX
"""Ended reservations that are remembered, so that a repeated job id is known."""
SELECTION_SAMPLE = 5
"""Random candidates out of which the best is taken: enough to find a good one, few enough that not
everybody runs to the same."""
STANDING_HALF_LIFE_S = 600.0
"""A fault weighs half after ten minutes, as long as a ban lasts."""
STANDING_PENALTY_MAX = 100.0
"""The sum of faults that gets a peer banned; `policy.reputation.WEIGHTS` is in its hundredths."""
API_HEAD_BYTES_MAX = 64 * KIB
"""JSON of a request: names, paths and numbers. A result's JSON holds a receipt and a timeline, about 2 KB."""

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

# --- discovery (drivers/market.py) ----------------------------------------------------------------------------------
DISCOVERY_TIMEOUT_S = 5.0
"""How long "nobody offers that" takes: a DHT lookup (3 s at most) and the time to ask those it names."""
DISCOVERY_INTERVAL_S = 10.0
"""With fewer than ASKED_AT_ONCE_MAX offers of a model known, the DHT is asked again, in the background, this often."""
DISCOVERY_GRACE_S = 0.3
"""How long slower providers may still answer after the first: ten round trips of a continent."""
QUOTE_TIMEOUT_S = 5.0
"""To connect and to quote; a provider that needs longer would not do the job in time either."""
QUOTE_GRACE_S = 0.1
"""How long slower quotes are waited for after the first."""
ASKED_AT_ONCE_MAX = 3
"""Providers asked for a quote for one job: each one more costs a round trip, and finds a better offer more rarely."""
MANIFESTS_CACHED_MAX = 256
"""At most 64 MiB; manifests are a few KB."""
JOB_ATTEMPTS_MAX = 2
"""The first provider, and one more when that one fails."""
MANIFEST_SOURCES_MAX = 4
"""Peers asked one after the other for a manifest before giving up."""
NEIGHBOURS_ASKED_MAX = 8
"""Connected peers that a newcomer asks directly beside those that the DHT names."""
ANSWER_TIMEOUT_S = 1.0
"""How long a node that stops waits for what providers say of jobs it just gave up: whether they cost anything."""
