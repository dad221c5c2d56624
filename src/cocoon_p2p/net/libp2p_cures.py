"""Faults of other libp2p programs that this one knows of: those of py-libp2p 0.8.1, which ours must not have (`CURES`), and
what our code does so that others' do it no harm (`CONCESSIONS`). Each with what it looks like, what is done, and the test
that fails when that is lost.

The product does not import py-libp2p; its tests do, as the other end. Before another version of it is used there: read this
list, change `LIBRARY_VERSION`, run the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

LIBRARY_VERSION = "0.8.1"


@dataclass(frozen=True, slots=True)
class Cure:
    symptom: str
    """What happens with the library as shipped."""
    mend: str
    """What is done instead, and in which file."""
    tests: tuple[str, ...]
    """Names of test functions, in tests/unit/net or in testing/net_contract.py."""


@dataclass(frozen=True, slots=True)
class Concession:
    program: str
    does: str
    answer: str
    """What we do about it, and in which file."""
    tests: tuple[str, ...]
    """As of `Cure`, or in tests/interop."""


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
        "switch.inbound: the place belongs to the task that serves the connection",
        ("test_inbound_places_are_given_back", "test_a_peer_that_is_killed", "TestGateMachine"),
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
        "yamux.connection: what is beyond the granted window resets its stream and is reported",
        (
            "test_a_peer_that_ignores_the_window",
            "test_a_window_overrun_ends_that_stream",
            "test_a_yamux_frame_over_the_window",
        ),
    ),
    Cure(
        "a reader that is idle for 5 s resets the writer's stream",
        "yamux.stream: a writer waits for the window without limit, and by an event",
        ("test_a_reader_may_be_idle_for_long",),
    ),
    Cure(
        "a gossip validator that raises ends the host",
        "gossip.gossip: validators run through supervisor.call_guarded",
        ("test_gossip_is_heard_and_rejected", "test_a_rejected_message_is_not_passed_on"),
    ),
    Cure(
        "250 silent sockets shut everybody out for 10 s",
        "switch.gate: unfinished handshakes are counted by subnet and in all, and end after HANDSHAKE_TIMEOUT_S",
        (
            "test_silent_sockets_are_capped_and_dropped",
            "test_a_handshake_that_stalls",
            "test_ten_thousand_connections_from_one_address",
        ),
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
        "gossip: our own gossipsub, 1 s; messages wait for their pace, and what is dropped is counted",
        (
            "test_the_heartbeat_is_the_specifications",
            "test_a_burst_of_300_arrives_whole",
            "test_who_sends_too_fast_waits_and_is_reported",
        ),
    ),
    Cure(
        "two hosts listen on one port in silence (SO_REUSEPORT)",
        "transport.listen: own listeners without it; ConfigError(code=ADDRESS_IN_USE)",
        ("test_a_port_in_use_is_said", "test_a_port_in_use_by_the_library_is_said"),
    ),
    Cure(
        "cancelling host.run() leaves the listener accepting",
        "switch.inbound: listeners live in the network's nursery",
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
        "yamux.connection: TransportError(code=TOO_MANY_STREAMS) at STREAMS_PER_PEER_MAX",
        ("test_too_many_streams_is_an_error_not_a_wait", "test_more_streams_than_one_may_have"),
    ),
    Cure(
        "each dial waits out 250 ms of happy eyeballs",
        "switch.dialling: all direct addresses at once, without a head start; a relay's when those have failed, or soon",
        (
            "test_dialling_does_not_wait",
            "test_all_begin_at_once_and_the_first_wins",
            "test_a_connection_takes_one_round_trip",
        ),
    ),
    Cure(
        "a cancelled write leaves the Noise counters of the two ends apart: all streams of the connection fail",
        "transport.pipe, noise.session: begun messages are finished, or the connection is closed",
        ("test_cancelled_sends_do_not_harm_the_connection", "test_a_cancelled_send_goes_out_whole"),
    ),
    Cure(
        "data that arrived just before the connection's end is thrown away unread",
        "yamux.stream: what came stays readable when the connection has ended",
        ("test_what_was_sent_before_the_end_can_be_read", "test_what_was_closed_just_before_the_end_is_whole"),
    ),
    Cure(
        "host.connect skips /p2p-circuit, tries two addresses at most, and says of none why it failed",
        "switch.dialling: up to DIALS_PER_PEER_MAX direct and as many relayed ones, ordered; each failure is told",
        (
            "test_what_worked_comes_first_and_what_failed_last",
            "test_relayed_addresses_are_apart",
            "test_each_failure_is_told",
        ),
    ),
    Cure(
        "a FIN that comes with an ACK is overlooked, and half-closed streams stay",
        "yamux.stream: either direction is closed by itself; a stream that the peer does not end is reset",
        ("test_half_close_by_us", "test_half_close_by_the_library", "test_an_end_beside_data_comes_after_it"),
    ),
    Cure(
        "flow control polls every 10 ms and gives up after 5 s; windows stay at 256 KiB",
        "yamux.window: events, and windows that grow with the round-trip time within a budget of the node",
        ("test_over_a_long_way_a_growing_window_is_faster", "test_a_budget_is_shared"),
    ),
    Cure(
        "cancelling host.run() sends nothing: peers learn of it by silence",
        "yamux.connection: GO_AWAY and the end of the socket, on every way out",
        ("test_sigterm_in_the_middle_of_a_transfer", "test_we_say_that_we_go_away"),
    ),
    Cure(
        "resource limits lower themselves, and there are none by subnet",
        "switch.gate: places by peer, by subnet and in all, given back exactly; rates; every refusal has a counter",
        (
            "TestGateMachine",
            "test_authenticated_connections_of_one_subnet_are_bounded",
            "test_failed_handshakes_ban_their_subnet_for_a_while",
        ),
    ),
    Cure(
        "accept() fails for ever when no file descriptor is left",
        "transport.listen, switch.switch: who knocks is turned away, the least useful connections are closed, once a minute it is said",
        ("test_no_file_descriptor_is_left", "test_without_descriptors_it_sheds_says_so_and_lives"),
    ),
    Cure(
        "peers and streams leave memory behind",
        "every table is bounded in limits/, and what ends gives its place back",
        ("test_memory_after_many_connections", "test_memory_after_many_messages", "test_memory_after_many_dials"),
    ),
)

CONCESSIONS: tuple[Concession, ...] = (
    Concession(
        "js-libp2p",
        "begins the ids of gossip messages with the author's public key, where all others begin them with its peer id",
        "gossip.messages: both ids are known for each message",
        ("test_ids_of_js_are_ours_without_two_bytes",),
    ),
    Concession(
        "js-libp2p, go-libp2p",
        "refuse GET_PROVIDERS and ADD_PROVIDER for keys that are no multihash",
        "dht.messages: a content id stands under its multihash",
        ("test_contents_are_asked_for_by_their_multihash",),
    ),
    Concession(
        "go-libp2p, js-libp2p, rust-libp2p",
        "answer no ADD_PROVIDER, and rust leaves the asker out of GET_PROVIDERS, so nothing confirms a provider record",
        "dht.publishing: an answer to a question behind it shows that it was read",
        ("test_a_peer_that_confirms_add_provider", "test_a_peer_that_refuses_a_provider"),
    ),
    Concession(
        "rust-libp2p (lattica)",
        "opens a thousand streams a second for a protocol that we do not speak",
        "switch.streams: refusals beyond REFUSED_STREAMS_PER_PEER_S wait; it is slowed and not cut off",
        ("test_a_flood_of_refused_streams_is_slowed",),
    ),
    Concession(
        "rust-yamux",
        "takes no data frame of more than 1 MiB",
        "yamux.connection: ours are shorter by their header",
        ("test_large_transfers_both_ways_at_once",),
    ),
    Concession(
        "py-libp2p",
        "overlooks a FIN that comes with an ACK",
        "yamux.stream: FIN goes in a frame of its own",
        ("test_half_close_by_us",),
    ),
    Concession(
        "py-libp2p, older programs",
        "choose no muxer within Noise",
        "switch.upgrade: it is agreed on behind it, by multistream-select",
        ("test_only_yamux_is_accepted",),
    ),
)
