"""Scenarios of seal/1."""

from __future__ import annotations

import base64
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from generator import frames, hpke_by_hand
from generator.kit import (
    CLIENT,
    JOB,
    JSON,
    MODEL,
    NOW_MS,
    PROVIDER,
    STRANGER,
    Scenarios,
    draw,
    error,
    pack,
    replaced,
    sha256,
)

CHUNK = 65536
SEED = draw("seal key")
OTHER_SEED = draw("another seal key")
PUBLIC_KEY = hpke_by_hand.public_key(SEED)
KEY_ID = sha256(b"cocoon-p2p/key-id/1\0" + PUBLIC_KEY)[:16]
RECORD: list[Any] = [1, PROVIDER.multihash, KEY_ID, PUBLIC_KEY, NOW_MS, NOW_MS + 720_000]
RECORD_NAMES = ("peer_id", "key_id", "public_key", "not_before_ms", "not_after_ms")
DOMAIN = "cocoon-p2p/seal-key/1"
PAYLOAD_SECRET = draw("payload secret")
RESPONSE_SECRET = draw("response secret")
COMMITMENT = sha256(b"cocoon-p2p/secrets/1\0" + PAYLOAD_SECRET + RESPONSE_SECRET)
HEADER: list[Any] = [1, 1, KEY_ID, JOB, MODEL, PROVIDER.multihash, 1750, NOW_MS + 70_000, 192, 3, COMMITMENT]
HEADER_NAMES = (
    "suite", "key_id", "job_id", "model_id", "provider", "max_total", "expires_at_ms", "payload_bytes", "items",
    "commitment",
)  # fmt: skip
RESPONSE_HEADER = [1, JOB, draw("nonce")]
PAYLOAD = draw("payload", 192)
# ML-KEM-768 encapsulated once to PUBLIC_KEY; encapsulation is random, so it is kept, and all boxes here are of it.
MLKEM_CIPHERTEXT = base64.b64decode(
    "zP46TigjAE+3ZokYjFJ2eT600A5ye0dYsMAxZelVYqw7NrLlLimSxCsSwT14YETf3DtuocVVRrNqrh9mXFjbPC7nVIAaZomlmdFNznX5G86d6i/0"
    "iQc/IP76btRBoQhlYNkIjPsNA15KaIUCfDM/bwaRQwjXCLGNmsu2H6YwUU/AgDvd4kghyoH435qvFU1d1FCkhjY0ppqU1PLiSYTb2QlW8UpUFzL4"
    "lmSMfiXsg5OA/0traRuOSh8kKNh/ZL2rN4TiViWDg08u9tY/fxQKC2htIdCRn/PDBOzKBxfVGZdOJKAWy8VZKWHcfIupYZBdjj4Bja6w8etgQVyp"
    "zg8rZv4RNfrrQSImYRstBJwMF/eekV8bLIRZJKBtLB93tRMnPRnSQ8CSgIZy/730uvWLiWUVZjPs6AZAk401jnMFGmQXiwkoh4eEwTKoXrZ1N0Ou"
    "k8lcXuR4pF1hTXg6bUCazxmX3vLSNXrss+71tuq+abBbIlUOsNpM/VUTPbIOVhJgQLsLEJ4DgZpMnUvjkaQnlckp5DpxEcjmXNssBI8QlDhKu6hS"
    "T7eKMeqkLYeBnlRbdzYsG6eMqLjh9/pamzojGoyvkjj7cyBKzqm+ytiV1vhQJxc7mnV1eg2obiD2AlfeHJrrBWm/Pud7N8lWWmfq+GiApw9gv+gZ"
    "m0/OdFxKhaj0FtqDM9bKFiWtWwWPJMb8FiKlpmc/LOd6+o4Wa6gTXMVnPMdJ8OZmh0XI0up8Xbuim0h/nOxXR1r3TnYL1XU4xByCqnJYASxkYaqa"
    "wNMGnHTAWtn/eMqrRlNVtBG2cgiEnGKXgqNorZpOsmwfARRfnmUexuxl+FeD69EATJaogAdehzxhArsvbi0YhpgaQ8+FhZ+IYqxsI5wMM7t5KLek"
    "gBmX9tqzFkUiRy11aRGUP26zdaQ/Vw7p4+eh3MMaUIge2XFg8tZArqYSNxg3XrdSth9LNOKITtyCWooGzmP25BQ/Ry+KXPIZ0tlaH614155AlyTS"
    "UYiknt4TXDkkdLeL5Ow+1IyyDUQFsZj28tSeBxZKKPfz94lj40j3vTABMwA5tITAci9UM4/Lx0oeyTv3tCdIj/X6M1GZDgcdORSYBCSU4hX3Bn4B"
    "rB4RzkTiwwSHc4JMC5TqZroOao2AsF9SNUSYQF1O5RJ6WmcD4yjjATKCiiq0Tv/KkuxxLsfhuv38Kj3cFePa2NFmTPzcOpZ1giDPjr7vahK68Klt"
    "WwM2FNSLchsFft78GUKd4GotmhN83BBUPIDOJ4j6P4ss5JvsZaU9AU+ulT5fxR6NBMXVX75uexqhBVqTdC9m7na4heyeasS5yY9FFhqJGwRRWvu9"
    "FTG0jbtqremUNw8OMt2SsMdx6fH1PVYh9izESAVLTzmF5XMvawXZmsq30S2FWXUAIXbQRghrEwB7kezuoFhpFDZGON1sqFCZiHUTq3f+qd0="
)
ENCAPSULATED = (
    MLKEM_CIPHERTEXT + X25519PrivateKey.from_private_bytes(draw("ephemeral key")).public_key().public_bytes_raw()
)


def signed_record() -> bytes:
    body = pack(*RECORD)
    return pack(1, body, PROVIDER.sign(DOMAIN, body))


def box_of(header: bytes, extension: bytes = b"", label: bytes = b"cocoon-p2p/1 request") -> bytes:
    plaintext = PAYLOAD_SECRET + RESPONSE_SECRET + extension
    return hpke_by_hand.seal(SEED, ENCAPSULATED, label + sha256(header), plaintext)


def payload_key(header: bytes) -> bytes:
    return hpke_by_hand.hkdf(PAYLOAD_SECRET, sha256(header), b"cocoon-p2p/1 req payload")


def response_key(header: bytes, response_header: bytes) -> bytes:
    return hpke_by_hand.hkdf(RESPONSE_SECRET, sha256(header) + sha256(response_header), b"cocoon-p2p/1 response")


def chunks(key: bytes, payload: bytes) -> list[bytes]:
    pieces = [payload[i : i + CHUNK] for i in range(0, len(payload), CHUNK)] or [b""]
    return [
        AESGCM(key).encrypt(i.to_bytes(11, "big") + (b"\1" if i == len(pieces) - 1 else b"\0"), piece, b"")
        for i, piece in enumerate(pieces)
    ]


def scenarios() -> Scenarios:
    found = Scenarios("seal/1")
    _records(found)
    _headers(found)
    _requests(found)
    _responses(found)
    _streams(found)
    frames.add_to(found)
    return found


def _records(found: Scenarios) -> None:
    secrets = {"payload_secret": PAYLOAD_SECRET, "response_secret": RESPONSE_SECRET}
    found.add("commitment", "4.5", "seal.commitment", secrets, COMMITMENT)
    swapped = {"payload_secret": RESPONSE_SECRET, "response_secret": PAYLOAD_SECRET}
    other = sha256(b"cocoon-p2p/secrets/1\0" + RESPONSE_SECRET + PAYLOAD_SECRET)
    found.add("commitment-of-swapped-secrets", "4.5", "seal.commitment", swapped, other)
    found.add("key", "3.2", "seal.key", {"seed": SEED}, {"public_key_sha256": sha256(PUBLIC_KEY), "key_id": KEY_ID})
    body = pack(*RECORD)
    signature = PROVIDER.sign(DOMAIN, body)
    fields = {**dict(zip(RECORD_NAMES, RECORD[1:], strict=True)), "peer_id": PROVIDER.peer_id}
    found.good("record", "3.2", "seal_key_record.decode", body, fields)
    for name, index, value, code in (
        ("version", 0, 2, "UNKNOWN_TAG"), ("peer-id-short", 1, bytes(37), "MALFORMED"),
        ("key-id-of-another-key", 2, bytes(16), "MALFORMED"), ("public-key-short", 3, PUBLIC_KEY[:-1], "MALFORMED"),
        ("public-key-altered", 3, PUBLIC_KEY[:-1] + bytes([PUBLIC_KEY[-1] ^ 1]), "MALFORMED"),
        ("time-float", 4, 1.5, "MALFORMED"), ("time-negative", 5, -1, "BOUND"),
    ):  # fmt: skip
        found.bad(f"record-{name}", "3.2", "seal_key_record.decode", replaced(RECORD, index, value), code)
    signed = {"body": body, "signature": signature}
    found.good("signed-record", "3.1", "signed_seal_key_record.decode", pack(1, body, signature), signed)
    for name, raw, code in (
        ("version", pack(2, body, signature), "UNKNOWN_TAG"), ("signature-short", pack(1, body, signature[1:]), "MALFORMED"),
        ("body-too-long", pack(1, bytes(2049), signature), "BOUND"),
    ):  # fmt: skip
        found.bad(f"signed-record-{name}", "3.1", "signed_seal_key_record.decode", raw, code)
    given = {"record": "seal_key_record", "signer": PROVIDER.peer_id, "body": body, "signature": signature}
    found.add("record-signature", "3.3", "signed.verify", given, True)
    for name, change in (
        ("forged", {"signature": STRANGER.sign(DOMAIN, body)}),
        ("altered", {"body": replaced(RECORD, 5, NOW_MS + 720_001)}),
        ("another-domain", {"signature": PROVIDER.sign("cocoon-p2p/quote/1", body)}),
    ):
        found.add(f"record-signature-{name}", "3.3", "signed.verify", {**given, **change}, error("SIGNATURE"))
    for name, now_ms, provider, expect in (
        ("in-time", NOW_MS, PROVIDER, True),
        ("clock-behind", NOW_MS - 10_000, PROVIDER, True),
        ("too-early", NOW_MS - 10_001, PROVIDER, error("EXPIRED")),
        ("expired", NOW_MS + 720_000, PROVIDER, error("EXPIRED")),
        ("of-another-provider", NOW_MS, CLIENT, error("MALFORMED")),
    ):
        given = {"body": body, "now_ms": now_ms, "provider": provider.peer_id}
        found.add(f"record-{name}", "3.3", "seal_key_record.current", given, expect)


def _headers(found: Scenarios) -> None:
    fields = {**dict(zip(HEADER_NAMES, HEADER[1:], strict=True)), "provider": PROVIDER.peer_id}
    found.good("header", "4.1", "envelope_header.decode", pack(*HEADER), fields)
    plain = {**fields, "suite": 0, "key_id": bytes(16), "commitment": bytes(32)}
    open_header = pack(1, 0, bytes(16), *HEADER[3:10], bytes(32))
    found.good("header-tier-open", "4.1", "envelope_header.decode", open_header, plain)
    found.bad("header-without-commitment", "4.1", "envelope_header.decode", pack(*HEADER[:-1]), "MALFORMED")
    found.good("header-trailing-field", "4.1", "envelope_header.decode", pack(*HEADER, 1), fields, exact=False)
    for name, index, value, code in (
        ("version", 0, 2, "UNKNOWN_TAG"), ("suite-unknown", 1, 2, "BOUND"), ("key-id-empty", 2, b"", "MALFORMED"),
        ("job-id-long", 3, bytes(17), "MALFORMED"), ("model-id-short", 4, bytes(31), "MALFORMED"),
        ("provider-no-peer", 5, bytes(38), "MALFORMED"), ("total-negative", 6, -1, "BOUND"),
        ("expiry-float", 7, 1.0, "MALFORMED"), ("payload-too-long", 8, (1 << 31) + 1, "BOUND"), ("items-zero", 9, 0, "BOUND"),
        ("commitment-short", 10, bytes(31), "MALFORMED"), ("commitment-empty", 10, b"", "MALFORMED"),
        ("commitment-nil", 10, None, "MALFORMED"), ("items-too-many", 9, (1 << 20) + 1, "BOUND"),
    ):  # fmt: skip
        found.bad(f"header-{name}", "4.1", "envelope_header.decode", replaced(HEADER, index, value), code)
    found.bad("header-too-long", "4.1", "envelope_header.decode", pack(*HEADER, bytes(1024)), "BOUND")
    response = {"job_id": JOB, "nonce": RESPONSE_HEADER[2]}
    found.good("response-header", "5.1", "response_header.decode", pack(*RESPONSE_HEADER), response)
    for name, index, value, code in (
        ("version", 0, 0, "UNKNOWN_TAG"), ("job-id-short", 1, bytes(15), "MALFORMED"), ("nonce-short", 2, bytes(31), "MALFORMED"),
    ):  # fmt: skip
        found.bad(
            f"response-header-{name}", "5.1", "response_header.decode", replaced(RESPONSE_HEADER, index, value), code
        )


def _requests(found: Scenarios) -> None:
    header = pack(*HEADER)
    (piece,) = chunks(payload_key(header), PAYLOAD)
    box = box_of(header)
    given: JSON = {"seed": SEED, "header": header, "box": box, "pieces": [[piece, True]], "payload_bytes": 192}
    found.add("open", "4.2", "seal.open", given, {"extension": b"", "plaintext": PAYLOAD})
    extended = {**given, "box": box_of(header, b"more")}
    found.add("open-with-extension", "4.2", "seal.open", extended, {"extension": b"more", "plaintext": PAYLOAD})
    empty_header = replaced(HEADER, 8, 0)
    (nothing,) = chunks(payload_key(empty_header), b"")
    empty = {
        **given,
        "header": empty_header,
        "box": box_of(empty_header),
        "pieces": [[nothing, True]],
        "payload_bytes": 0,
    }
    found.add("open-empty-payload", "6.1", "seal.open", empty, {"extension": b"", "plaintext": b""})

    def bad(name: str, section: str, **change: Any) -> None:
        found.add(f"open-{name}", section, "seal.open", {**given, **change}, error("ENVELOPE"))

    others: list[Any] = [
        0, bytes(16), draw("another job", 16), draw("another model"), CLIENT.multihash, 1749, NOW_MS + 70_001, 191, 4, bytes(32),
    ]  # fmt: skip
    for index, (name, value) in enumerate(zip(HEADER_NAMES, others, strict=True), 1):
        bad(f"altered-header-{name.replace('_', '-')}", "4.2", header=replaced(HEADER, index, value))
    bad("altered-header-version", "4.2", header=replaced(HEADER, 0, 2))
    bad("header-encoded-anew", "4.2", header=header + b"\xc0")
    for name, value in (("other-secrets", draw("another commitment")), ("no-secrets", bytes(32))):
        other = replaced(HEADER, 10, value)
        pieces = [[chunks(payload_key(other), PAYLOAD)[0], True]]
        bad(f"commitment-to-{name}", "4.5", header=other, box=box_of(other), pieces=pieces)
    bad("wrong-key", "4.2", seed=OTHER_SEED)
    bad("another-label", "4.2", box=box_of(header, label=b"cocoon-p2p/1 response"))
    bad("box-altered-key", "4.2", box=bytes([box[0] ^ 1]) + box[1:])
    bad("box-altered-curve", "4.2", box=box[:1119] + bytes([box[1119] ^ 1]) + box[1120:])
    bad("box-altered-secret", "4.2", box=box[:1130] + bytes([box[1130] ^ 1]) + box[1131:])
    bad("box-altered-tag", "4.2", box=box[:-1] + bytes([box[-1] ^ 1]))
    bad("box-cut-short", "4.2", box=box[:-1])
    bad("box-empty", "4.2", box=b"")
    bad("box-without-response-secret", "4.2", box=hpke_by_hand.seal(
        SEED, ENCAPSULATED, b"cocoon-p2p/1 request" + sha256(header), PAYLOAD_SECRET))  # fmt: skip
    bad("box-too-long", "4.2", box=box_of(header, bytes(2897)))
    bad("chunk-altered", "6.2", pieces=[[bytes([piece[0] ^ 1]) + piece[1:], True]])
    bad("chunk-altered-tag", "6.2", pieces=[[piece[:-1] + bytes([piece[-1] ^ 1]), True]])
    bad("chunk-not-final", "6.2", pieces=[[piece, False]])
    bad("chunk-cut-short", "6.2", pieces=[[piece[:-1], True]])
    bad("chunk-shorter-than-a-tag", "6.2", pieces=[[piece[:15], True]])
    bad("chunk-repeated", "6.2", pieces=[[piece, True], [piece, True]])
    bad("nothing-came", "6.2", pieces=[[b"", True]])
    bad("longer-than-announced", "6.2", payload_bytes=191)
    bad("shorter-than-announced", "6.2", payload_bytes=193)
    bad("response-key-for-the-request", "6.2", pieces=[[chunks(response_key(header, b""), PAYLOAD)[0], True]])


def _responses(found: Scenarios) -> None:
    header, response_header = pack(*HEADER), pack(*RESPONSE_HEADER)
    (piece,) = chunks(response_key(header, response_header), PAYLOAD)
    given: JSON = {
        "response_secret": RESPONSE_SECRET, "header": header, "response_header": response_header,
        "pieces": [[piece, True]], "payload_bytes": 192,
    }  # fmt: skip
    found.add("response", "5.2", "seal.open_response", given, {"plaintext": PAYLOAD})
    for name, change in (
        ("another-request", {"header": replaced(HEADER, 6, 1)}),
        ("another-nonce", {"response_header": replaced(RESPONSE_HEADER, 2, draw("another nonce"))}),
        ("another-job", {"response_header": replaced(RESPONSE_HEADER, 1, draw("another job", 16))}),
        ("another-secret", {"response_secret": PAYLOAD_SECRET}),
        ("the-request-sent-back", {"pieces": [[chunks(payload_key(header), PAYLOAD)[0], True]]}),
        ("not-final", {"pieces": [[piece, False]]}),
        ("altered", {"pieces": [[piece[:50] + bytes([piece[50] ^ 128]) + piece[51:], True]]}),
        ("nothing-after-the-header", {"pieces": []}),
    ):
        found.add(f"response-{name}", "5.2", "seal.open_response", {**given, **change}, error("ENVELOPE"))


def _streams(found: Scenarios) -> None:
    """Streams of several chunks, which would be long files: the reader seals the pattern itself and rearranges chunks."""
    key = draw("stream key")
    for size in (0, 1, 64, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 17 * CHUNK + 64):
        sealed = b"".join(chunks(key, pattern(size)))
        given = {"key": key, "payload_bytes": size}
        expect = {"ciphertext_bytes": len(sealed), "ciphertext_sha256": sha256(sealed)}
        found.add(f"chunks-of-{size}", "6.1", "seal.chunks", given, expect)
    size = 3 * CHUNK + 64
    sealed = chunks(key, pattern(size))
    sealed_hash = sha256(b"".join(sealed))

    def order(name: str, expect: Any, *pieces: tuple[list[int], bool], **more: Any) -> None:
        given = {
            "key": key, "payload_bytes": size, "ciphertext_sha256": sealed_hash,
            "pieces": [{"chunks": indexes, "final": final} for indexes, final in pieces],
            "flip": None, "append": [], "announced_bytes": size, **more,
        }  # fmt: skip
        found.add(f"stream-{name}", "6.2", "seal.open_chunks", given, expect)

    good = {"plaintext_sha256": sha256(pattern(size))}
    bad = error("ENVELOPE")
    order("in-one-piece", good, ([0, 1, 2, 3], True))
    order("in-two-pieces", good, ([0, 1], False), ([2, 3], True))
    order("chunk-by-chunk", good, ([0], False), ([1], False), ([2], False), ([3], True))
    order("swapped", bad, ([0, 2, 1, 3], True))
    order("swapped-pieces", bad, ([2], False), ([0, 1], False), ([3], True))
    order("skipped", bad, ([0, 1, 3], True))
    order("skipped-first", bad, ([1, 2, 3], True))
    order("repeated", bad, ([0, 1, 1, 2, 3], True))
    order("repeated-piece", bad, ([0, 1], False), ([0, 1], False), ([2, 3], True))
    order("truncated", bad, ([0, 1, 2], False))
    order("truncated-early-final", bad, ([0, 1, 2], True))
    order("final-only", bad, ([3], True))
    order("after-final", bad, ([0, 1, 2, 3], True), ([0], False))
    order("final-not-said", bad, ([0, 1, 2, 3], False))
    order("empty-piece", bad, ([], False), ([0, 1, 2, 3], True))
    nothing = AESGCM(key).encrypt((3).to_bytes(11, "big") + b"\1", b"", b"")
    order("empty-final-after-full", bad, ([0, 1, 2], False), append=[[nothing, True]], announced_bytes=3 * CHUNK)
    for index in range(4):
        order(f"altered-chunk-{index}", bad, ([0, 1, 2, 3], True), flip=[index, 17])


def pattern(size: int) -> bytes:
    """Byte i is i modulo 251."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]
