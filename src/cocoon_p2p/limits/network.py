"""Bounds of connections and of what travels on them: streams, sessions, the gate, identify, data sockets."""

from __future__ import annotations

from cocoon_p2p.limits.sizes import KIB, MIB

# --- frames and streams (net/) ---------------------------------------------------------------------------------------
FRAME_BYTES_MAX = MIB + 64 * KIB
"""One frame on a stream: 1 MiB of payload and what a message puts round it. The network moves bulk fastest in pieces of
about 1 MB (measured); a peer that frames more is wrong or hostile."""
STREAMS_PER_PEER_MAX = 128
"""One job stream, one capacity stream, DHT and gossip streams of a healthy peer stay below 20; an application with 64 calls
in flight has room. Unread, each holds 256 KiB: 32 MiB. py-libp2p blocks in silence at 256."""
STREAM_WINDOW_BYTES_INITIAL = 256 * KIB
"""yamux's specification, "Flow Control": what a peer may send before it hears of a window. A stream that nobody reads
holds no more."""
STREAM_WINDOW_BYTES_MAX = 64 * MIB
"""Unread bytes of one stream, up to which its window grows while it is read as fast as it fills: at a round-trip time of
50 ms 32 MiB moved 309 MB/s, 64 MiB 555 MB/s (measured). A reader that stops after that leaves so much in memory."""
CONNECTION_WINDOW_BYTES_MAX = 64 * MIB
"""By which the windows of one connection may have grown, all together: one stream at full speed over a far way."""
NODE_WINDOW_BYTES_MAX = 256 * MIB
"""By which the windows of a node may have grown: what it may have to hold when all its readers stop at the same moment,
beside 256 KiB a stream."""
YAMUX_REPLIES_MAX = 1000
"""Control frames that wait for a peer to read: one that makes us answer and reads nothing is cut off at 12 KB."""
YAMUX_PING_REPLIES_PER_S = 100
"""go, rust and js ping once in 10 to 30 s; 100 answers cost 0.5 % of a core."""
STREAM_LINGER_S = 5.0
"""How long a stream that we closed waits for the peer's end before it is reset."""
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
DEATH_NOTICE_S = 0.5
"""How long after a stream or a data socket broke its connection may take to be known as dead, too."""
HANDLER_GRACE_S = 5.0
"""For a stream's handler once its connection has ended: one that reads or writes learns of it at once, and what it still has
to put on disk takes far less. Another would keep its place among the streams."""
KEEPALIVE_DOUBT_S = 2.0
"""How long each of them may take after this machine has moved: ten times the longest way round the earth."""
STREAM_OPEN_TIMEOUT_S = 5.0
PING_TIMEOUT_S = 5.0
"""Longer than any round trip of the internet; a peer that answers later is not there for any practical purpose."""
NET_EVENTS_QUEUE_MAX = 1024


# --- pipes and secure sessions (net/transport, net/noise) ------------------------------------------------------------
CLOSE_LINGER_S = 5.0
"""How long the system goes on sending what it holds of a connection that we have closed: the last words, over a bad way."""
SEND_FINISH_TIMEOUT_S = 2.0
"""How long a cancelled send may go on with what it began, so that the connection survives; then the connection is given
up, so that Ctrl-C is quick."""
NOISE_BUFFERS_KEPT_MAX = 16
"""Buffers of 512 KiB that a process keeps for its sessions: 8 MiB, enough for eight that send and receive at full speed."""
HANDSHAKE_MESSAGE_BYTES_MAX = 4 * KIB
"""A Noise handshake message: key, signature and extensions are 250 bytes; an RSA identity, which we refuse, 1.1 KB."""
LISTEN_BACKLOG = 1024
"""Connections that the system completes and keeps until we take them: what a machine sends in one burst."""
SHED_PAUSE_S = 0.05
"""Out of descriptors: how long the listener lets those that were told to close do so before it takes the next connection."""
LOOK_UPS_MAX = 32
"""Host names being looked up at the same moment, each in a thread that lives until the name server has answered, or some 20 s."""
RESOLVED_ADDRESSES_MAX = 8
"""Of one host name, all dialled at once; content networks answer with that many."""
WEBSOCKET_HEAD_BYTES_MAX = 8 * KIB
"""An HTTP request for an upgrade: browsers send 500 bytes, and cookies."""
WEBSOCKET_FRAMES_PER_S = 10_000
WEBSOCKET_FRAMES_BURST = 20_000
"""Of one connection; then it waits. A frame may be as short as two bytes and costs 5 µs: a megabyte of them a second, of a
stranger, was a whole core."""


# --- the gate of the network (net/switch/) ---------------------------------------------------------------------------
CONNECTIONS_KEPT_LOW = 80
"""Trimming goes on down to this, so that it is not done again for each new connection."""
CONNECTION_GRACE_S = 20.0
"""A new connection is not trimmed for so long: identify, a lookup and the first job need a few seconds of it."""
CONNECTIONS_PER_SUBNET_MAX = 32
"""Inbound, from one /24 (IPv4) or /56 (IPv6): a rack or an office, and a sixteenth of CONNECTIONS_MAX for an attacker."""
CONNECTIONS_PER_PRIVATE_SUBNET_MAX = 256
"""The same from a private range: all machines of a LAN are in one /24. Half of CONNECTIONS_MAX stays for others."""
CONNECTIONS_FROM_LOOPBACK_MAX = 384
"""Inbound from one address of this machine: testnets of tens of nodes, each connected to all, run on 127.0.0.1 alone.
A program on this machine needs no network to harm the node; still, a quarter of the places stays for others."""
CONNECTIONS_PER_RELAY_MAX = 64
"""Inbound through one relay: what hides behind it can't be told apart."""
HANDSHAKES_PER_SUBNET_MAX = 32
"""Unfinished at the same moment; twice what one address may have."""
HANDSHAKES_FROM_LOOPBACK_MAX = 64
"""A testnet of 40 nodes that starts at once on two cores has them all in handshake at the same moment."""
HANDSHAKES_MAX = 128
"""Unfinished ones in all: 128 of them a second or two are a third of a core."""
ARRIVALS_PER_SUBNET_S = 8.0
ARRIVALS_PER_SUBNET_BURST = 64
"""New inbound sockets of one subnet: an office that comes back from a power cut, and then one churning machine. A handshake
costs 2–4 ms of CPU, so one subnet can take 3 % of a core."""
ARRIVALS_PER_PRIVATE_SUBNET_S = 50.0
ARRIVALS_PER_PRIVATE_SUBNET_BURST = 256
ARRIVALS_FROM_LOOPBACK_S = 200.0
ARRIVALS_FROM_LOOPBACK_BURST = 400
"""Programs on this machine share its cores anyway."""
ARRIVALS_S = 300.0
ARRIVALS_BURST = 600
"""From everywhere: at 3 ms each one core would be full, which is when it must end."""
HANDSHAKE_FAILURES_PER_SUBNET_S = 0.5
HANDSHAKE_FAILURES_PER_SUBNET_BURST = 64
"""Failed or refused handshakes of one subnet before it is banned: a load balancer that looks every five seconds whether the
port answers stays below, and so does an office whose machines have another network key."""
SUBNET_BAN_S = 300.0
"""Short: it has no identity to remember it by, and may have other users tomorrow."""
BANS_MAX = 10_000
"""Bans remembered, of peers and subnets; the one that ends first goes first."""
STREAMS_MAX = 4096
"""Inbound streams of all peers: 40 of each that is kept. Each may bring 256 KiB before anybody reads (yamux has no smaller
window), so that all of them unread are 1 GiB."""
STREAMS_OF_PEER_MAX = 2 * STREAMS_PER_PEER_MAX
"""Inbound streams on all connections of one peer. Each keeps its place until its handler has ended, a moment longer than
the peer takes to open the next one: with the muxer's bound alone it would now and then be refused for nothing."""
STREAMS_PER_SUBNET_MAX = 512
"""128 MiB unread; on loopback, in private ranges and behind one relay STREAMS_MAX alone counts."""
STREAM_OPENINGS_PER_PEER_S = 5000.0
STREAM_OPENINGS_PER_PEER_BURST = 10_000
"""An opening costs some 0.2 ms at each end, so the one who opens is as busy as we are; small calls come a stream each."""
REFUSED_STREAMS_PER_PEER_S = 20.0
REFUSED_STREAMS_PER_PEER_BURST = 200
"""Streams whose protocol we do not speak. An honest peer asks once a protocol; rust's lattica asks a thousand times a
second for its bitswap. Beyond this its streams wait for their refusal, and it for us."""
REFUSED_STREAMS_HELD_MAX = 8
"""Refusals of one peer that wait; more are reset unread. So most of STREAMS_PER_PEER_MAX stay for what we do speak."""
REFUSED_STREAM_WAIT_S = 1.0
PINGS_PER_PEER_S = 10.0
PINGS_PER_PEER_BURST = 100
"""Echoes of /ipfs/ping/1.0.0; people ping once a second, benchmarks a hundred times."""
RATE_KEYS_MAX = 4096
"""Sources whose rates are remembered, each 200 bytes; beyond, whoever was quiet longest is forgotten."""
DIALS_MAX = 64
"""Sockets being dialled at the same moment: a lookup asks DHT_PARALLEL_RPCS peers at up to DIALS_PER_PEER_MAX addresses."""
DIAL_RELAYED_DELAY_S = 0.1
"""What direct addresses get before relayed ones are tried as well: a round trip within a continent."""
DIAL_FAILURE_REMEMBERED_S = 60.0
"""An address that failed is tried last for so long: as long as an announcement lives."""
DIAL_FAILURES_MAX = 4096
MISBEHAVIOURS_PER_PEER_S = 2.0
MISBEHAVIOURS_PER_PEER_BURST = 10
"""Reports of one peer's faults that are passed on; a handful ends in a ban anyway."""
SHED_CONNECTIONS = 8
"""Closed at once when the process has no file descriptor left: enough for a job's and the engine's files."""
SHED_LOG_INTERVAL_S = 60.0
SWITCH_ROUND_S = 5.0
"""How often connections that nobody needs are looked for, and whether this machine's addresses have changed."""
STANDING_SLOW_PENALTY = 25.0
"""From here on a peer gets half of the rates of others, from twice this a quarter, from three times this an eighth."""
BAN_MAX_S = 365 * 86400.0
"""A ban by hand: what is longer outlives the peer's identity."""


# --- identify (net/identify/) ----------------------------------------------------------------------------------------
IDENTIFY_MESSAGE_BYTES_MAX = 8 * KIB
"""go-libp2p's bound."""
IDENTIFY_MESSAGES_MAX = 10
"""Of one answer; go-libp2p's bound."""
IDENTIFY_PROTOCOLS_MAX = 128
"""A go-libp2p node with everything on names 40."""
PROTOCOL_NAME_CHARS_MAX = 256
"""The longest in use have 60; multistream-select takes lines of 1024 bytes."""
IDENTIFY_TIMEOUT_S = 5.0
"""go-libp2p's."""
IDENTIFY_PUSH_GATHER_S = 0.2
"""Changes within this time are told together: a relay's address comes with that of a mapped port."""
IDENTIFY_PUSH_INTERVAL_S = 2.0
"""Between two rounds of pushes: addresses flap when a network comes and goes, and 96 peers are told each time."""
IDENTIFY_PUSH_BURST = 4
"""Rounds before that holds: a node that starts finds a relay, and whether it is one itself, within a second."""
IDENTIFY_PUSHES_AT_ONCE_MAX = 8
IDENTIFY_PUSHES_PER_PEER_S = 1.0
IDENTIFY_PUSHES_PER_PEER_BURST = 32
"""A push costs 0.5 ms. go-libp2p pushes once for each handler that an application sets after it connected."""
PEER_RECORD_BYTES_MAX = 4 * KIB
"""With the 16 addresses of an announcement 1.2 KiB; go-libp2p's certificates of WebTransport make some longer."""


# --- data sockets (net/bulk, protocols/data/1) -----------------------------------------------------------------------
BULK_BYTES_MIN = 8 * MIB
"""Payloads from this size on get a data socket: agreeing on one costs two round trips, which 8 MB take at 1 GB/s on a
path of 4 ms, and what waits for it goes over the stream."""
EXTERNAL_BODY_BYTES_MIN = 64 * KIB
"""Below this one write on the stream is as quick as a write on each (measured)."""
EXTERNAL_INLINE_BYTES_MAX = 4 * KIB
"""Head and tail of an external frame. Those of job/1 have 26 bytes."""
DATA_SOCKETS_PER_CONNECTION_MAX = 4
"""Each way. Two peers that serve each other need two; each takes kernel memory for a window, up to 6 MB."""
DATA_SOCKETS_MAX = 128
"""In all: a quarter of CONNECTIONS_MAX, so that descriptors and kernel memory stay the connections'."""
DATA_TOKEN_LIFETIME_S = 5.0
"""As long as dialling may take (DIAL_TIMEOUT_S)."""
DATA_GREETING_TIMEOUT_S = 3.0
"""36 bytes, sent at once; as HANDSHAKE_TIMEOUT_S."""
DATA_UNCLAIMED_MAX = 64
"""Sockets at once that have not shown a valid token. Beyond, new ones are dropped."""
DATA_STALL_TIMEOUT_S = 15.0
"""Nothing of a part that was announced comes for this long: the path is dead. Keep-alive ends a dead connection in 20 s."""
DATA_IDLE_SENDER_S = 30.0
"""An idle socket costs a descriptor at both ends, a new one two round trips."""
DATA_IDLE_RECEIVER_S = 120.0
"""So much longer than DATA_IDLE_SENDER_S that the sender never finds a socket closed that it is about to use."""
DATA_OFF_S = 300.0
"""After a data socket failed or was tampered with: a path that breaks them goes on doing so, and a retry costs a job."""
DATA_OFF_PEERS_MAX = 1024
FRAME_BUFFERS_KEPT = 8
"""Buffers of one frame each (1.06 MiB) that are used again: a fresh one costs 0.25 ms of page faults. A sender has five in
use, a receiver two."""
