"""The Noise handshake as a machine: published vectors, another implementation in both roles, and everything bent."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection
from secure_pairs import ALICE, BOB, YAMUX, x25519

from cocoon_p2p.ids import peer_id_from_public_key
from cocoon_p2p.net.noise.handshake import HandshakeError, TransportKeys, XXHandshake, nonce_of
from cocoon_p2p.net.noise.identity import NoiseIdentity, agreed_muxer, check_payload
from cocoon_p2p.net.pb import noise_pb2

VECTORS: list[dict[str, Any]] = [
    {  # cacophony (https://github.com/haskell-cryptography/cacophony), Noise_XX_25519_ChaChaPoly_SHA256
        "prologue": "4a6f686e2047616c74",
        "init_static": "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1",
        "init_ephemeral": "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
        "resp_static": "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
        "resp_ephemeral": "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
        "hash": "c8e5f64e846193be2a834104c2a009868d6c9f3bd3c186299888b488b2f1f58e",
        "messages": [
            (
                "4c756477696720766f6e204d69736573",
                "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79444c756477696720766f6e204d69736573",
            ),
            (
                "4d757272617920526f746862617264",
                "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f14480884381cbad1f276e038c48378ffce2b65285"
                "e08d6b68aaa3629a5a8639392490e5b9bd5269c2f1e4f488ed8831161f19b7815528f8982ffe09be9b5c412f8a0db50f"
                "8814c7194e83f23dbd8d162c9326ad",
            ),
            (
                "462e20412e20486179656b",
                "c7195ffacac1307ff99046f219750fc47693e23c3cb08b89c2af808b444850a80ae475b9df0f169ae80a89be0865b57f"
                "58c9fea0d4ec82a286427402f113e4b6ae769a1d95941d49b25030",
            ),
            ("4361726c204d656e676572", "96763ed773f8e47bb3712f0e29b3060ffc956ffc146cee53d5e1df"),
            (
                "4a65616e2d426170746973746520536179",
                "3e40f15f6f3a46ae446b253bf8b1d9ffb6ed9b174d272328ff91a7e2e5c79c07f5",
            ),
            (
                "457567656e2042f6686d20766f6e2042617765726b",
                "eb3f3515110702e047a6c9da4478b6ead94873c11c0f2d710ddb3f09fce024b3a58502ae3f",
            ),
        ],
    },
    {  # snow (https://github.com/mcginty/snow, tests/vectors/snow.txt), the same protocol
        "prologue": "5468657265206973206e6f20726967687420616e642077726f6e672e2054686572652773206f6e6c792066756e20616e642"
        "0626f72696e672e",
        "init_static": "7dec208517a3b81a2861d7a71266d5d6dc944c5a8816634a86fe63198a0148ee",
        "init_ephemeral": "a32daf21e93c0131495ce1d903181fde81cc46937daaeb990bae7c992709421e",
        "resp_static": "4d0aed5098e3b4ef20357e9f686ce66204c792b358da2e475017d6c485304881",
        "resp_ephemeral": "4eece0f195d026db035ff987597c429d3ad3bcc2944df37d649528951b2a27c5",
        "hash": None,
        "messages": [
            (
                "d03c489139e645d0711a3c9e810d776b46a84912463fafa87b884eebf242dc34",
                "f9fa868ba97ab8a2686deccfaad5a484ee10a5bb85e3d1dce015a84797f92818d03c489139e645d0711a3c9e810d776b"
                "46a84912463fafa87b884eebf242dc34",
            ),
            (
                "d8190a92f7dc0c93dbea9118ba8055751fb7c6590c416ffbd419964132b99a85",
                "8c4e6fdb7d09d501a86f7eca5c234522751706ed409182c05cdf5f827d4dae47b81c6c5f43b025692c24391eefee725c"
                "17d8cb0fbe3e4abb8aedf42c4fd2592d4ea48ac08989d6ae8b4adae08b2c34087c808c7aa55a63c02b0fab9e93061233"
                "6bd43eaea04d3c670a0a146691aa9cc9d357872320dc735dbc48580cffb553db",
            ),
            (
                "77891b19dcb92ef7c055b672c4a5aa7fdf1c84146b8b303459022729473ce254",
                "933ca6b5ed60df3df66121f0ab49a09e49efa45c613a86a3cecbf4c535cef2f83f72b42837b18e3572f2fdc2b74c331e"
                "2368a545cef54bdca081678ab0e9dd5348122459e0c034c851984d88ce610963d43cde6cfe73a67fbd5a63e8bfca96d0",
            ),
            (
                "d7efdf988072881941db045a42882433817555128fbf5663e56081712ec7d212",
                "54ef0ff0629e1aaa7685a2806ab111cba76b52331f2642276736f415868eacb69ab2577f3bda0cbf72f879685f6ed25f",
            ),
            (
                "dd7bf01a588bafb52c6cfba952e5d8fe35cc2b3f92b4730ae2474615157345ce",
                "356be70f110306d5c699bb834bb9d58d909e325924dfbec972e406e6f294dc63e1daebefe8a62a334facc8048ab4ad66",
            ),
        ],
    },
]


def key(text: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes.fromhex(text))


@pytest.mark.parametrize("vector", VECTORS, ids=["cacophony", "snow"])
def test_published_vectors(vector: dict[str, Any]) -> None:
    prologue = bytes.fromhex(vector["prologue"])
    initiator = XXHandshake(
        initiator=True, static=key(vector["init_static"]), ephemeral=key(vector["init_ephemeral"]), prologue=prologue
    )
    responder = XXHandshake(
        initiator=False, static=key(vector["resp_static"]), ephemeral=key(vector["resp_ephemeral"]), prologue=prologue
    )
    messages = [(bytes.fromhex(payload), bytes.fromhex(message)) for payload, message in vector["messages"]]
    writer, reader = initiator, responder
    for payload, message in messages[:3]:
        assert writer.write(payload) == message
        assert reader.read(message) == payload
        writer, reader = reader, writer
    near, far = initiator.keys(), responder.keys()
    assert near.handshake_hash == far.handshake_hash
    assert vector["hash"] in (None, near.handshake_hash.hex())
    assert initiator.remote_static == key(vector["resp_static"]).public_key().public_bytes_raw()
    assert responder.remote_static == key(vector["init_static"]).public_key().public_bytes_raw()
    for i, (payload, message) in enumerate(messages[3:]):
        by_responder = i % 2 == 0
        keys = far if by_responder else near
        assert ChaCha20Poly1305(keys.send).encrypt(nonce_of(i // 2), payload, None) == message
        assert (near if by_responder else far).receive == keys.send


@pytest.mark.parametrize("we_initiate", [True, False])
def test_against_the_noiseprotocol_package(we_initiate: bool) -> None:
    theirs = NoiseConnection.from_name(b"Noise_XX_25519_ChaChaPoly_SHA256")
    theirs.set_keypair_from_private_bytes(Keypair.STATIC, bytes([7]) * 32)
    if we_initiate:
        theirs.set_as_responder()
    else:
        theirs.set_as_initiator()
    theirs.start_handshake()
    ours = XXHandshake(initiator=we_initiate, static=x25519(1), ephemeral=x25519(2))
    for i in range(3):
        if (i % 2 == 0) == we_initiate:
            assert bytes(theirs.read_message(ours.write(b"payload %d" % i))) == b"payload %d" % i
        else:
            assert ours.read(bytes(theirs.write_message(b"payload %d" % i))) == b"payload %d" % i
    assert theirs.handshake_finished
    keys = ours.keys()
    assert theirs.get_handshake_hash() == keys.handshake_hash
    sealed = ChaCha20Poly1305(keys.send).encrypt(nonce_of(0), b"there", None)
    assert bytes(theirs.decrypt(sealed)) == b"there"
    assert ChaCha20Poly1305(keys.receive).decrypt(nonce_of(0), bytes(theirs.encrypt(b"back")), None) == b"back"


def run(
    *, bend: int = -1, how: Any = None, payloads: tuple[bytes, bytes, bytes] = (b"", b"two", b"three")
) -> TransportKeys:
    """A whole handshake; message number `bend` passes through `how`."""
    ends = [
        XXHandshake(initiator=True, static=x25519(1), ephemeral=x25519(2)),
        XXHandshake(initiator=False, static=x25519(3), ephemeral=x25519(4)),
    ]
    for i, payload in enumerate(payloads):
        message = ends[i % 2].write(payload)
        if i == bend:
            message = how(message)
        assert ends[1 - i % 2].read(message) == payload or i == bend
    keys, others = ends[0].keys(), ends[1].keys()
    if (keys.send, keys.receive) != (others.receive, others.send):
        raise HandshakeError("the keys differ")
    return keys


@given(st.tuples(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300)))
@settings(max_examples=20, deadline=None)
def test_any_payload_arrives(payloads: tuple[bytes, bytes, bytes]) -> None:
    run(payloads=payloads)


def test_a_flipped_bit_at_any_position_is_found() -> None:
    """Also the highest bit of an X25519 key, which counts for nothing in the exchange (RFC 7748 §5): it is hashed."""
    sizes = (32, 32 + 48 + 3 + 16, 48 + 5 + 16)
    for number, size in enumerate(sizes):
        for position in range(size):
            with pytest.raises(HandshakeError):
                run(bend=number, how=lambda m, p=position: m[:p] + bytes([m[p] ^ 0x80]) + m[p + 1 :])


def test_a_message_cut_or_lengthened_anywhere_is_refused() -> None:
    for number, size in enumerate((32, 99, 69)):
        for length in range(size):
            with pytest.raises(HandshakeError):
                run(bend=number, how=lambda m, n=length: m[:n])
        with pytest.raises(HandshakeError):
            run(bend=number, how=lambda m: m + b"x")


LOW_ORDER = [  # https://cr.yp.to/ecdh.html#validate
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("point", LOW_ORDER)
def test_points_of_low_order_are_refused(point: str) -> None:
    responder = XXHandshake(initiator=False, static=x25519(1), ephemeral=x25519(2))
    responder.read(bytes.fromhex(point))
    with pytest.raises(HandshakeError, match="low order"):
        responder.write(b"")


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_garbage_for_message_two_is_a_handshake_error(garbage: bytes) -> None:
    initiator = XXHandshake(initiator=True, static=x25519(1), ephemeral=x25519(2))
    initiator.write()
    with pytest.raises(HandshakeError):
        initiator.read(garbage)


def test_the_ends_take_turns() -> None:
    initiator = XXHandshake(initiator=True, static=x25519(1), ephemeral=x25519(2))
    with pytest.raises(AssertionError):
        initiator.read(b"x" * 32)
    with pytest.raises(AssertionError):
        initiator.keys()


# --- the payload -----------------------------------------------------------------------------------------------------


def static_of(identity: NoiseIdentity) -> bytes:
    return identity.static.public_key().public_bytes_raw()


def test_a_payload_proves_an_identity() -> None:
    remote = check_payload(BOB.payload, static_of(BOB))
    assert (remote.peer, remote.muxers) == (BOB.peer, (YAMUX,))
    assert BOB.peer == peer_id_from_public_key(
        Ed25519PrivateKey.from_private_bytes(b"b" * 32).public_key().public_bytes_raw()
    )


def test_anothers_payload_proves_nothing() -> None:
    with pytest.raises(HandshakeError, match="not signed"):
        check_payload(BOB.payload, static_of(ALICE))


def test_a_flipped_bit_of_key_or_signature_is_found() -> None:
    message = noise_pb2.NoiseHandshakePayload.FromString(BOB.payload)
    for field in ("identity_key", "identity_sig"):
        value = getattr(message, field)
        for position in range(len(value)):
            bent = noise_pb2.NoiseHandshakePayload.FromString(BOB.payload)
            setattr(bent, field, value[:position] + bytes([value[position] ^ 1]) + value[position + 1 :])
            with pytest.raises(HandshakeError):
                check_payload(bent.SerializeToString(), static_of(BOB))


def test_identities_that_are_no_ed25519_keys_are_refused() -> None:
    for key_bytes in (b"", b"\x08\x00\x12\x20" + bytes(32), b"\x08\x02\x12\x21" + bytes(33), bytes(36)):
        payload = noise_pb2.NoiseHandshakePayload(identity_key=key_bytes, identity_sig=bytes(64)).SerializeToString()
        with pytest.raises(HandshakeError, match="Ed25519"):
            check_payload(payload, static_of(BOB))


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_other_payload_is_a_handshake_error(payload: bytes) -> None:
    with pytest.raises(HandshakeError):
        check_payload(payload, static_of(BOB))


def test_secrets_do_not_show() -> None:
    text = repr(ALICE) + repr(TransportKeys(b"s" * 32, b"r" * 32, b"h"))
    assert ALICE.static.private_bytes_raw().hex() not in text
    assert "ssss" not in text and "rrrr" not in text


def test_the_muxer_is_the_initiators_first_choice_that_the_responder_has() -> None:
    assert agreed_muxer(["/mplex/6.7.0", YAMUX], [YAMUX]) == YAMUX
    assert agreed_muxer([YAMUX, "/mplex/6.7.0"], ["/mplex/6.7.0", YAMUX]) == YAMUX
    assert agreed_muxer(["/mplex/6.7.0"], [YAMUX]) is None
    assert agreed_muxer([], [YAMUX]) is None
