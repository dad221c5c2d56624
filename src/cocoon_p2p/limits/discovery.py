"""Bounds of finding and being found: DHT, gossip, relays, reachability, announcements, invites."""

from __future__ import annotations

from cocoon_p2p.limits.sizes import KIB, MIB

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
"""A value is republished whenever it changes (announcements: every RECORD_INTERVAL_S); its own expiry is inside it."""
DHT_PROVIDER_LIFETIME_S = 900.0
"""Three times DHT_PROVIDER_REPUBLISH_S; the library keeps them for 48 hours."""
DHT_REFRESH_INTERVAL_S = 300.0
"""An idle node looks for its neighbours, and into one distant part of the key space, this often: two lookups of some twenty
questions, 30 ms of CPU."""
DHT_REFRESH_FIRST_S = 5.0
"""And so soon after the first time, then after twice that, and so on: a network that starts grows fast."""
DHT_BUCKET_STALE_S = 3600.0
"""Kademlia §2.3: a bucket in which nothing was looked up for an hour is refreshed."""
DHT_RECORD_REPUBLISH_S = 1200.0
DHT_PROVIDER_REPUBLISH_S = 300.0
"""Three times within the lifetime."""
DHT_RETRY_FIRST_S = 1.0
DHT_RETRY_MAX_S = 30.0
"""How soon something that nobody took is offered again; the wait doubles."""
DHT_PUBLISHED_MAX = 1024
"""Keys that one node publishes: MODELS_PER_ANNOUNCEMENT_MAX models have 130."""
DHT_BREADTH = 6
"""Nearest peers that have answered when a lookup for a place to store ends (go-libp2p: 3), rather than all k."""
DHT_STORES_AT_ONCE = 10
DHT_STREAM_IDLE_S = 30.0
"""An idle stream to a peer that was asked: longer than the time between two announcements."""
DHT_CONNECTION_IDLE_S = 90.0
"""A connection that a lookup made, and that serves nothing else."""
DHT_SWEEP_INTERVAL_S = 15.0
DHT_CANDIDATES_MAX = 256
"""Peers that one lookup keeps in mind."""
DHT_HEARSAY_FAILURES_MAX = 5
"""Peers that one peer names, and that are not there, before a lookup stops believing it."""
DHT_BUCKET_SUBNET_MAX = 3
DHT_TABLE_SUBNET_MAX = 8
"""Peers of one subnet with public addresses (IPv4 /24, IPv6 /56) in a bucket, and in the routing table: go-libp2p has 2 and 3.
Whoever rents one subnet cannot surround us."""
DHT_EVICTION_AGE_S = 60.0
"""A peer that was heard from within this time is not tried when another wants its place."""
DHT_RECORDS_PER_PEER_MAX = 64
"""Records that one peer may have brought; an honest one brings its own."""
DHT_CONTENTS_PER_PEER_MAX = 256
"""Contents that one peer may provide: twice what MODELS_PER_ANNOUNCEMENT_MAX models come to."""
DHT_PROVIDERS_PER_SUBNET_MAX = 16
"""Providers of one content in one public subnet."""
DHT_REQUESTS_PER_PEER_S = 100.0
DHT_REQUESTS_PER_PEER_BURST = 400
"""Questions of one peer: 3 % of a core at 0.3 ms each; a node with 64 models that restarts sends 390 at once."""
DHT_FLOOD_PATIENCE_S = 10.0
"""Waiting that one peer causes by asking too much before it loses standing."""
DHT_FIND_TELLERS = 3
"""Peers that name an address of the one that is sought before the search ends."""
DHT_RPC_TIMEOUT_S = 1.5
"""Asking one peer, dialling it included: half a lookup, so that frozen peers do not use it up."""
DHT_PARALLEL_RPCS = 8
"""Kademlia's alpha is 3; go-libp2p's 10."""
DHT_BUCKET_PEERS_MAX = 20
"""Kademlia's k: a record is kept at the k nearest peers."""
DHT_QUORUM = 4
"""Peers that answered with a valid record before a lookup stops asking more."""
GOSSIP_MESSAGE_BYTES_MAX = 16 * KIB
GOSSIP_QUEUE_MAX = 1024
GOSSIP_PUBLISH_S = 10.0
GOSSIP_PUBLISH_BURST = 300
"""What a node publishes: an honest one announces every 30 s and when something changes. Beyond that `publish` waits.
py-libp2p drops above 10 a second in silence."""
GOSSIP_MESSAGES_PER_PEER_S = 15.0
GOSSIP_MESSAGES_PER_PEER_BURST = 450
"""What is taken of one author: half as much again as it may publish, because messages bunch on their way."""
GOSSIP_MESSAGES_PER_LINK_S = 400.0
GOSSIP_MESSAGES_PER_LINK_BURST = 1000
"""What one neighbour may hand on, of whatever authors, before it has to wait: 10,000 nodes that announce every 25 s, and
some 8 % of a core in signatures."""
GOSSIP_KNOWN_MESSAGE_COST = 0.1
"""A message that we have, do not want, or drop unread costs this part of one whose signature is checked (measured)."""
GOSSIP_FLOOD_PATIENCE_S = 10.0
"""Waiting that one neighbour causes by sending too fast before it loses standing."""
GOSSIP_OUT_S = 500.0
GOSSIP_OUT_BURST = 100
"""Messages that a neighbour is sent: go-libp2p's validation queue holds 128, and what comes while it is full is lost. A burst
of 300 takes 0.4 s."""
GOSSIP_BATCH_BYTES = 32 * KIB
"""Messages put into one RPC; rust-libp2p takes 64 KiB at most."""
GOSSIP_RPC_BYTES_MAX = MIB
"""go-libp2p's."""
GOSSIP_MESSAGES_PER_RPC_MAX = 4096
"""More than fit into GOSSIP_RPC_BYTES_MAX at 200 bytes each, which is a signature, two ids and a topic."""
GOSSIP_CONTROL_ENTRIES_MAX = 512
"""Entries of each list of one RPC; our own have at most as many as topics, 64."""
GOSSIP_TOPIC_CHARS_MAX = 256
GOSSIP_IDS_PER_HEARTBEAT_MAX = 512
"""Message ids told, asked for and answered, each, a neighbour and heartbeat: a whole burst that was missed."""
GOSSIP_IHAVES_PER_HEARTBEAT_MAX = 64
"""IHAVE entries looked at, a neighbour and heartbeat: one a topic; go-libp2p takes 10 RPCs."""
GOSSIP_ANSWERS_PER_ID_MAX = 3
"""How often one neighbour is sent one message by IWANT: GossipRetransmission of gossipsub 1.1."""
GOSSIP_PROMISE_S = 5.0
"""After IHAVE and IWANT the message has to come; gossipsub 1.1 says 3 s, a full queue of ours takes 2 s."""
GOSSIP_KEPT_BYTES_MAX = 16 * MIB
"""Messages of the last five heartbeats, for those who missed them."""
GOSSIP_SEEN_S = 120.0
"""go-libp2p's; a message that comes back later would be taken as new, so announcements carry their own expiry."""
GOSSIP_SEEN_MAX = 65_536
GOSSIP_TOPICS_PER_PEER_MAX = 64
GOSSIP_OUT_QUEUE_MAX = 1024
"""Messages waiting for a slow neighbour, shared among the neighbours' queues: three whole bursts. The library drops above 32."""
GOSSIP_OUT_CONTROL_MAX = 256
GOSSIP_REOPEN_MAX_S = 30.0
"""A neighbour that takes no gossip stream is asked again this often."""
GOSSIP_OVERLAP_S = 2.0
"""A stream of a neighbour that has opened another one is read for so long: what is on its way comes within a round trip or
two, and two streams of one neighbour are not to last."""
GOSSIP_HEARTBEAT_S = 1.0
"""The specification's; py-libp2p's default is 120 s."""


# --- relays and hole punching (net/reach/) ----------------------------------------------------------------------------
RELAY_RESERVATIONS_MAX = 128
"""go-libp2p's. Each keeps one connection open: 10 MB in all."""
RELAY_RESERVATIONS_PER_SUBNET_MAX = 16
"""An office or a lab behind one address; go-libp2p gives 8 to an address."""
RELAY_RESERVATION_S = 3600.0
"""go-libp2p's; renewed at half of it."""
RELAY_CIRCUITS_MAX = 64
"""Each has two buffers of RELAY_COPY_BYTES and up to two stream windows that are full: 512 MB if every one of them is
stuck, 8 MB in ordinary use."""
RELAY_CIRCUITS_PER_PEER_MAX = 16
"""go-libp2p's: what one provider behind a NAT gets at one relay; most connections leave it by hole punching in a second."""
RELAY_CIRCUITS_PER_SUBNET_MAX = 16
"""Asked for from one subnet, by whatever peers: a quarter of all."""
RELAY_CIRCUIT_S = 1800.0
"""Longer than a job of a client that cannot be reached otherwise takes; such a client connects anew at the end."""
RELAY_CIRCUIT_BYTES_MAX = 512 * MIB
"""In each direction: a hundred jobs of some megabytes. Whoever moves more should be reachable."""
RELAY_COPY_BYTES = 64 * KIB
"""Read from one stream and written to the other at once: a Noise message. More made no circuit faster."""
RELAYS_HELD = 2
"""Reservations that a node keeps, so that one relay may go without it being lost for others."""
RELAY_ADDRESSES_MAX = 4
"""Addresses of one relay that we tell others; they try DIALS_PER_PEER_MAX of all of ours."""
RELAY_RETRY_S = 15.0
RELAY_RETRY_MAX_S = 600.0
"""After a refusal; doubled each time. A relay that is full has no place for an hour."""
RELAY_RENEWAL_MIN_S = 60.0
RELAY_RENEWAL_MAX_S = 1800.0
"""Between renewals, whatever the relay's clock says about expiry: it may be an hour wrong, and so may ours."""
HOLE_PUNCH_TRIES = 3
"""The specification's."""
HOLE_PUNCH_ADDRESSES_MAX = 4
"""Addresses that a peer may make us dial in one try."""
HOLE_PUNCH_TIMEOUT_S = 3.0
"""One try: the second SYN of each side goes out after one second, the third after three."""
HOLE_PUNCH_RTT_MAX_S = 5.0
RELAYED_LINK_GRACE_S = 5.0
"""How long a relayed connection stays beside a direct one: what was begun on it ends."""


# --- reachability (net/reach/) ---------------------------------------------------------------------------------------
OBSERVERS_MIN = 2
"""Subnets whose peers must see us at the same public address before it is believed; it is then tested by AutoNAT before
anybody is told (go-libp2p, which does not test, wants four)."""
OBSERVATIONS_MAX = 256
OBSERVATION_LIFETIME_S = 2400.0
"""go-libp2p's 40 minutes: home routers change their address once a day."""
AUTONAT_MESSAGE_BYTES_MAX = 4 * KIB
"""go-libp2p's bound."""
AUTONAT_ADDRESSES_MAX = 8
"""Dialled for one question; a node has three or four that can be meant."""
AUTONAT_REQUEST_TIMEOUT_S = 5.0
AUTONAT_DIAL_BACK_TIMEOUT_S = 8.0
"""A dial and a handshake."""
AUTONAT_ANSWER_TIMEOUT_S = 20.0
"""go-libp2p dials for up to 15 s."""
AUTONAT_PER_ASKER_S = 1 / 20
AUTONAT_PER_ASKER_BURST = 4
"""Dial-backs for one subnet (or one peer of our LAN); go-libp2p does three a minute."""
AUTONAT_PER_S = 0.5
AUTONAT_BURST = 30
"""For everybody; go-libp2p does thirty a minute."""
AUTONAT_DIALS_AT_ONCE_MAX = 8
AUTONAT_ASKED_AT_ONCE = 3
"""Peers of different subnets, asked in one round: the least that has a majority when they disagree."""
AUTONAT_INTERVAL_S = 900.0
"""go-libp2p's refresh."""
AUTONAT_DOUBT_ROUNDS = 3
"""Asked sooner than that when something contradicts what is believed: in three rounds of AUTONAT_ASKED_AT_ONCE all voters
that count have been asked."""
AUTONAT_RETRY_S = 2.0
AUTONAT_INTERVAL_UNKNOWN_S = 60.0
"""While nobody has told, the pause doubles from the one to the other: in a network that starts all ask at once, and those
asked are busy."""
AUTONAT_GATHER_S = 0.5
"""After something changed, before peers are asked: several connections are made at the start."""
AUTONAT_ROUND_INTERVAL_S = 1.0
"""Between two rounds, whatever changes."""
VOTES_MAX = 8
"""Of the latest peers that tried, or dialled us by themselves."""
VOTE_LIFETIME_S = 2700.0
"""Three rounds of AUTONAT_INTERVAL_S."""
VOTES_MIN = 2
"""Subnets that must say the same before it is believed, as far as there are that many to ask."""
UPNP_DISCOVERY_TIMEOUT_S = 8.0
"""miniupnpc takes a second when a router answers, and 4 s when none does (measured)."""
UPNP_CALL_TIMEOUT_S = 5.0
"""One question to the router; miniupnpc itself gives up a connection after 3 s."""
UPNP_LEASE_S = 3600
"""A machine that died leaves the port open for an hour at most."""
UPNP_RETRY_S = 600.0
UPNP_PORTS_TRIED_MAX = 3
UPNP_REMOVAL_TIMEOUT_S = 1.0
"""A node that stops waits no longer for its router; the lease ends by itself."""
MDNS_QUEUE_MAX = 64
"""Records of the local network that wait to be looked at; of more, the oldest go."""
MDNS_REFRESH_S = 30.0
"""How often a node looks whether its own addresses are still the same."""
MDNS_CONNECTIONS_PER_PEER_S = 1 / 60
MDNS_CONNECTIONS_PER_S = 1.0
"""Attempts to connect to what is heard of: a LAN has tens of nodes, and one that lies must not keep us dialling."""
MDNS_PEERS_MAX = 32
"""With so many connections a node only notes where the others of its LAN are."""
MDNS_STOP_TIMEOUT_S = 1.0


# --- discovery (drivers/discovery.py) ----------------------------------------------------------------------------------
DISCOVERY_TIMEOUT_S = 5.0
"""How long "nobody offers that" takes: a DHT lookup (3 s at most) and the time to ask those it names."""
DISCOVERY_INTERVAL_S = 10.0
"""With fewer than MARKET_FRESH_OFFERS offers of a model known, more are looked for in the background, this often at first."""
DISCOVERY_GRACE_S = 0.3
"""How long slower providers may still answer after the first: ten round trips of a continent."""
QUOTE_TIMEOUT_S = 5.0
"""To connect and to quote; a provider that needs longer would not do the job in time either."""
QUOTE_GRACE_S = 0.1
"""How long slower quotes are waited for after the first."""
QUOTE_SILENT_S = 1.0
"""Who said nothing for so long, while another quoted, counts as having turned us away: to connect and to ask takes six round
trips."""
QUOTE_LATE_S = 0.5
"""While nobody has quoted, others are asked besides so soon: a connection to the next continent, and a quote."""
ASKED_AT_ONCE_MAX = 3
"""Providers asked for a quote for one job: each one more costs a round trip, and finds a better offer more rarely."""
MANIFESTS_CACHED_MAX = 256
"""At most 64 MiB; manifests are a few KB."""
JOB_ATTEMPTS_MAX = 5
"""Providers that one job is given to, one after the other: where one in ten dies in mid-job, one job in 100,000 fails."""
MANIFEST_SOURCES_MAX = 16
"""Peers asked for a manifest, one after the other (MANIFEST_STAGGER_S), before giving up: a dozen that say nothing must not
hide it."""
NEIGHBOURS_ASKED_MAX = 8
"""Connected peers that a newcomer asks directly beside those that the DHT names."""
ANSWER_TIMEOUT_S = 1.0
"""How long a node that stops waits for what providers say of jobs it just gave up: whether they cost anything."""


# --- invites and known peers (wire/invite.py, drivers/known_peers.py) -------------------------------------------------
INVITE_CHARS_MAX = 1023
"""The longest text for which bech32m's checksum finds any three wrong characters; a QR code of it still fits a screen."""
INVITE_ADDRESSES_MAX = 8
"""As many as one dial tries (DIALS_PER_PEER_MAX)."""
INVITE_ADDRESS_BYTES_MAX = 256
"""A host name of 253 characters with its port; an IPv6 address behind a relay has 66 bytes."""
INVITE_HOURS_MAX = 10 * 365 * 24.0
"""`invite --hours`: ten years, longer than an address stays the same."""
KNOWN_PEERS_KEPT_MAX = 256
"""Peers of one network that were reached and may be dialled at the next start: at about 300 bytes each 80 kB."""
KNOWN_NETWORKS_MAX = 16
"""Private networks (and the public one) whose peers one home remembers."""
KNOWN_PEERS_DIALLED = 4
"""At a start, beside the bootstrap list: enough that one answers when half of them have gone."""
KNOWN_PEER_AGE_MAX_S = 30 * 86_400.0
"""Home lines change their address within days; who was away for a month asks for an invite."""
PINGS_MAX = 100_000
"""`ping --count`: a day's worth at one a second."""


# --- looking for peers that are not where they said ------------------------------------------------------------------
SEEK_AFTER_S = 1.0
"""Whoever is where he said has answered by then: three round trips round the world."""
SEEK_TIMEOUT_S = 3.0
"""For the question where a peer is now, and the dial; a lookup takes a few round trips where nobody has gone."""
SEEK_RELAYS_MAX = 4
"""Relays asked for a way to it: it holds RELAYS_HELD places, most likely at bootstrap nodes that we share."""
SEEKS_PER_S = 1.0
SEEKS_BURST = 16
"""A lookup asks twenty peers: who tries a hundred dead providers must not flood the DHT."""

# --- capacity announcements ------------------------------------------------------------------------------------------
ANNOUNCEMENT_LIFETIME_S = 60.0
"""So a provider that died is out of everybody's book within a minute."""
ANNOUNCEMENT_INTERVAL_S = 30.0
"""Less ANNOUNCEMENT_JITTER: two chances before the last one expires."""
ANNOUNCEMENT_MIN_INTERVAL_S = 1.0
"""Changes in between are gathered: at most one announcement a second, a tenth of what gossip lets through."""
ANNOUNCEMENT_CLOCK_SKEW_S = 10.0
"""NTP keeps machines well within a second; ten leave room for a laptop that just woke up."""
MODELS_PER_ANNOUNCEMENT_MAX = 64
ADDRESSES_PER_ANNOUNCEMENT_MAX = 16
OWN_ADDRESSES_MAX = 8
"""Of this machine's interfaces: as many as one dial tries (DIALS_PER_PEER_MAX). It leaves room for relayed addresses."""
OWN_HOSTS_REMEMBERED_S = 1.0
"""Asking the system takes 0.2 ms (measured), and is done for each identify."""
ADDRESS_CHARS_MAX = 256
NAME_CHARS_MAX = 64
DEVICE_CHARS_MAX = 64
AGENT_CHARS_MAX = 64
DETAIL_CHARS_MAX = 512
BOOK_PEERS_MAX = 10_000
"""At about 2 KB each 20 MB; the least recently heard goes first."""


# --- clocks (policy/clock_comparison.py) ------------------------------------------------------------------------------
CLOCKS_COMPARED_MAX = 256
"""Peers whose clocks are remembered; the least recently heard goes first."""
CLOCKS_TO_JUDGE_BY = 3
"""Peers that must have been heard before this machine's own clock is called wrong: one liar is not most of three."""
