"""Bounds of models that move between peers (protocols/blob/1). A piece's size stands with the other bounds of models."""

from __future__ import annotations

from cocoon_p2p.limits.jobs import MANIFEST_FILES_MAX, MODEL_BYTES_MAX
from cocoon_p2p.limits.sizes import MIB

BLOB_PIECES_MAX = MODEL_BYTES_MAX // MIB + MANIFEST_FILES_MAX
"""Of one model: each file may end in a short one."""
BLOB_BITFIELD_BYTES_MAX = (BLOB_PIECES_MAX + 7) // 8
BLOB_HASHES_PER_MESSAGE_MAX = 32_768
"""1 MiB of them, the hashes of a file of 32 GiB."""
BLOB_PIECES_LISTED_MAX = 1024
"""In one message: 4 KiB. At 1 GB/s a holder gets so many in a second, and tells of them four times."""
BLOB_REQUESTS_MAX = 64
"""Asked for and not answered, of one stream: four times what our own fetcher asks for."""
BLOB_DEPTH_MIN = 2
"""One on its way while the next is read."""
BLOB_DEPTH_MAX = 16
"""16 MiB on their way: 100 MB/s over a path of 160 ms."""
BLOB_DEPTH_S = 0.5
"""So much time's worth of pieces is asked for ahead: a path of 250 ms stays full."""
BLOB_IN_FLIGHT_MAX = 64
"""Of all holders together: 64 MiB of memory, if all came at the same moment."""
BLOB_SOURCES_MAX = 16
"""Holders outside of the local network that are asked at the same time; BitTorrent clients gain little beyond some 30."""
BLOB_LOCAL_SOURCES_MAX = 32
BLOB_STREAMS_PER_PEER_MAX = 16
"""That one peer may have open here to fetch: several models at the same time."""
BLOB_STREAMS_MAX = 256
"""Of all peers: 30 KB each, and 128 KiB for the bitfield of the largest model."""
BLOB_MANIFESTS_PER_STREAM_MAX = 2
BLOB_STALL_S = 10.0
"""A piece that does not come for so long is asked for elsewhere: 1 MiB at 100 KB/s."""
BLOB_GIVE_UP_S = 60.0
"""A holder that has owed pieces for so long is left."""
BLOB_GIVE_UP_ALONE_S = 600.0
"""The same where it owes what nobody else has: 1 MiB at 1.7 KB/s."""
BLOB_HASHES_TIMEOUT_S = 20.0
"""For 1 MiB of hashes; a holder that has just started may have to make them first."""
BLOB_LOCAL_ANSWER_S = 1.0
"""How long those on the local network are waited for before anybody else is asked for a piece: a hundred round trips."""
BLOB_LOCAL_PATIENCE_S = 1.0
"""How long who has nothing left to do waits for the others on the local network."""
BLOB_HAVE_INTERVAL_S = 0.25
BLOB_STATUS_TIMEOUT_S = 30.0
"""A holder that has just started may have to hash the model first: 30 GB from a quick disk."""
BLOB_SEARCH_FIRST_S = 0.5
BLOB_SEARCH_MAX_S = 60.0
"""How often holders are looked for while a model is fetched: the wait doubles."""
BLOB_ALONE_S = 30.0
"""Without any holder for so long a fetch ends; what is there is kept."""
BLOB_ANNOUNCE_INTERVAL_S = 540.0
"""As often as provider records of offers; they live for 900 s."""
BLOB_ANNOUNCED_MAX = 64
"""Models that one node tells the DHT that it has beside those on offer: a peer may have 256 contents there."""
BLOB_TURN_S = 30.0
"""How long one fetcher may go on while others wait."""
BLOB_SLOT_IDLE_S = 5.0
"""A fetcher that asks for nothing for so long gives its place to one that waits."""
BLOB_PARTIAL_KEPT_S = 30 * 86_400.0
"""A model half fetched, and not gone on with for so long, is removed."""
BLOB_CHECKS_AT_ONCE = 4
"""Threads that hash and write pieces."""
BLOB_CHECKS_MAX = 6
"""Pieces of one model that wait for them, or are with them: with the one that is read and the one before it they fill the
memory that is kept for frames (FRAME_BUFFERS_KEPT)."""

AUTO_SERVE_INTERVAL_S = 60.0
"""How often it is looked whether another model would be of more use."""
AUTO_SERVE_HALF_LIFE_S = 1800.0
"""Demand counts half after so long: a model takes minutes to come, and should be wanted for longer than that."""
AUTO_SERVE_SUBNET_MAX = 3.0
"""What all asks from one subnet for one model count together at most."""
AUTO_SERVE_SUBNETS_MIN = 3
"""Subnets that must want a model: one peer, or one rented subnet, decides nothing."""
AUTO_SERVE_SCORE_MIN = 3.0
AUTO_SERVE_MODELS_MAX = 256
"""Models whose demand is remembered, and SUBNETS_MAX each."""
AUTO_SERVE_SUBNETS_MAX = 64
AUTO_SERVE_KEEP_S = 3600.0
"""A model that was picked up is kept at least so long: fetching it has cost others bandwidth."""
AUTO_SERVE_AGAIN_S = 6 * 3600.0
"""A model that could not be fetched, or was refused, is not tried again before."""
AUTO_SERVE_MEANWHILE = 0.25
"""So much of the disk budget may be used beyond it while a model comes in place of others: they go when it is here."""
AUTO_SERVE_DEAR = 2.0
"""A model whose cheapest offer costs so many times the least that was ever asked for it here is short."""
