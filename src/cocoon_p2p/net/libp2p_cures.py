"""The faults of py-libp2p 0.8.1 that this adapter must not have: each with what it looked like, how it is avoided, and the
test that fails when it comes back.

The version is pinned. Before another one is used: read this list, change `LIBRARY_VERSION`, run the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

LIBRARY_VERSION = "0.8.1"


@dataclass(frozen=True, slots=True)
class Cure:
    symptom: str
    """What happens with the library as shipped."""
    mend: str
    """What is done about it, and in which file."""
    tests: tuple[str, ...]
    """Names of test functions, in tests/unit/net or in testing/net_contract.py."""


CURES: tuple[Cure, ...] = (
    Cure(
        "new_host() offers /plaintext/2.0.0 and secio: who knows a public key passes as its owner",
        "switch.upgrade: Noise alone, then yamux alone, by our own multistream-select",
        (
            "test_only_noise_is_accepted",
            "test_only_yamux_is_accepted",
            "test_a_listener_that_offers_plaintext_is_not_spoken_to",
            "test_another_peer_at_the_address_is_refused",
        ),
    ),
    Cure(
        "a place for an inbound connection comes free only when the swarm stops: 250 in a lifetime",
        "switch.switch: the place belongs to the task that serves the connection",
        ("test_inbound_places_are_given_back",),
    ),
    Cure(
        "an exception in a stream handler ends the host",
        "supervisor.run_handler: that stream is reset, the failure counted and logged",
        ("test_a_failing_handler_harms_its_stream_alone", "test_a_group_of_failures_harms_one_stream"),
    ),
    Cure(
        "a protocol name that is not UTF-8 ends the host",
        "multistream: names are compared as bytes",
        ("test_a_protocol_name_that_is_not_utf8",),
    ),
    Cure(
        "yamux's receive window is not enforced: one peer took 1.5 GB",
        "yamux: a stream's buffer refuses what is beyond the largest window",
        ("test_a_peer_that_ignores_the_window",),
    ),
    Cure(
        "a reader that is idle for 5 s resets the writer's stream",
        "yamux.MuxStream.write: waits for the window without limit, before the library does",
        ("test_a_reader_may_be_idle_for_long",),
    ),
    Cure(
        "a gossip validator that raises ends the host",
        "gossip.gossip: validators run through supervisor.call_guarded",
        ("test_gossip_is_heard_and_rejected",),
    ),
    Cure(
        "250 silent sockets shut everybody out for 10 s",
        "switch.switch: unfinished handshakes are counted by address, and end after HANDSHAKE_TIMEOUT_S",
        ("test_silent_sockets_are_capped_and_dropped",),
    ),
    Cure(
        "a frozen peer hangs reads for over a minute, a dead one stays listed and the next stream fails",
        "yamux: keep-alive by yamux pings; switch.streams: one redial when the connection has died",
        (
            "test_a_frozen_peer_is_dropped",
            "test_a_killed_peer_is_noticed_at_once",
            "test_a_lost_connection_is_dialled_again",
        ),
    ),
    Cure(
        "a stream that was cut off ends like one that was closed",
        "framing: an end frame; truncation is TransportError(outcome_known=False)",
        ("test_truncation_is_an_error", "test_a_reset_is_no_clean_end", "test_a_killed_peer_is_noticed_at_once"),
    ),
    Cure(
        "gossipsub beats every 120 s by default, and drops above 10 messages a second in silence",
        "gossip.gossip: our own gossipsub 1.1, 1 s; what is dropped is counted",
        ("test_heartbeat_and_limits", "test_a_flood_of_gossip_is_dropped_and_counted"),
    ),
    Cure(
        "two hosts listen on one port in silence (SO_REUSEPORT)",
        "switch.switch: own listeners without it; ConfigError(code=ADDRESS_IN_USE)",
        ("test_a_port_in_use_is_said", "test_a_port_in_use_by_the_library_is_said"),
    ),
    Cure(
        "cancelling host.run() leaves the listener accepting",
        "switch.switch: listeners live in the network's nursery",
        ("test_listeners_close_with_the_network",),
    ),
    Cure(
        "the DHT answers from its local copy, repeats providers, keeps them for 48 h, takes 20-40 s when peers are frozen",
        "dht.dht: network first, merged, own expiry, DHT_RPC_TIMEOUT_S a peer and DHT_LOOKUP_TIMEOUT_S in all",
        (
            "test_the_network_is_asked_before_the_local_copy",
            "test_frozen_peers_do_not_stop_a_lookup",
            "test_providers_are_found_and_can_be_reached",
            "test_providers_expire",
        ),
    ),
    Cure(
        "republishing an identical record is refused, so it vanishes at its expiry",
        "dht.kademlia.RecordStore: an equal sequence number renews",
        ("test_the_higher_sequence_number_wins", "test_publishing_again_renews"),
    ),
    Cure(
        "strict_validation off: records of unknown namespaces are stored",
        "dht.kademlia.RecordStore: no validator, no record",
        ("test_a_namespace_without_validator_is_refused",),
    ),
    Cure(
        "KadDHT(protocol_prefix=…) has no effect: we would join the public DHT",
        "dht.dht: only /cocoon/kad/1.0.0 exists",
        ("test_only_our_own_dht_is_offered",),
    ),
    Cure(
        "peers in client mode enter routing tables",
        "dht.dht: only peers whose identify lists the protocol are admitted",
        ("test_dht_clients_are_not_asked",),
    ),
    Cure(
        "new_stream blocks in silence at 256 streams",
        "yamux: TransportError(code=TOO_MANY_STREAMS) at STREAMS_PER_PEER_MAX",
        ("test_too_many_streams_is_an_error_not_a_wait",),
    ),
    Cure(
        "each dial waits out 250 ms of happy eyeballs",
        "switch.switch: all addresses at once, without a head start",
        ("test_dialling_does_not_wait",),
    ),
    Cure(
        "a cancelled write leaves the Noise counters of the two ends apart: all streams of the connection fail",
        "switch.upgrade.SocketConnection.write: begun messages are finished, or the connection is closed",
        ("test_cancelled_sends_do_not_harm_the_connection",),
    ),
    Cure(
        "data that arrived just before the connection's end is thrown away unread",
        "yamux.MuxStream: holds its own reference to the buffer",
        ("test_what_was_sent_before_the_end_can_be_read",),
    ),
)
