"""Scenarios of evidence/1."""

from __future__ import annotations

from typing import Any

from generator import payload, seal
from generator.job import RECEIPT
from generator.kit import (
    CLIENT,
    JOB,
    JSON,
    MODEL,
    NOW_MS,
    PROVIDER,
    STRANGER,
    Party,
    Scenarios,
    draw,
    error,
    pack,
    replaced,
    sha256,
)

DOMAIN = "cocoon-p2p/evidence/1"
NAMES = (
    "accuser", "made_at_ms", "model_id", "kind", "tolerance", "receipt_body", "provider_signature", "envelope_header",
    "response_header", "payload_secret", "response_secret", "input", "output", "expected",
)  # fmt: skip
INPUT = payload.container([("text", 8, (1,), payload.strings("how do I earn?"))])
OUTPUT = payload.container([("y", 1, (2,), bytes.fromhex("0000803f00000040"))])
EXPECTED = payload.container([("y", 1, (2,), bytes.fromhex("0000803f00004040"))])
ANSWER = {"provider": PROVIDER.peer_id, "job_id": JOB}


def header_of(**change: Any) -> list[Any]:
    fields = dict(zip(("version", *seal.HEADER_NAMES), seal.HEADER, strict=True))
    return list((fields | {"payload_bytes": len(INPUT), "items": 1} | change).values())


def receipt_of(input_hash: bytes, output_hash: bytes, **change: Any) -> list[Any]:
    fields = dict(enumerate(RECEIPT)) | {8: 1, 9: input_hash, 10: output_hash}
    places = {"provider": 1, "client": 2, "job_id": 3, "model_id": 4, "tier": 5, "frames": 14}
    return list((fields | {places[name]: value for name, value in change.items()}).values())


def body_of(
    *,
    header: dict[str, Any] | None = None,
    receipt: dict[str, Any] | None = None,
    response: list[Any] = seal.RESPONSE_HEADER,
    signer: Party = PROVIDER,
    receipt_domain: str = "cocoon-p2p/receipt/1",
    plain: bool = False,
    **change: Any,
) -> list[Any]:
    """All that an honest accuser puts down about a job, but for what is named: as if the job had been done so."""
    given = {"input": INPUT, "output": OUTPUT} | change
    clear = pack(*header_of(**{"payload_bytes": len(given["input"])} | (header or {})))
    response_header = pack(*response)
    if plain:
        sealed_input, sealed_output = given["input"], given["output"]
    else:
        sealed_input = b"".join(seal.chunks(seal.payload_key(clear), given["input"]))
        sealed_output = b"".join(seal.chunks(seal.response_key(clear, response_header), given["output"]))
    hashes = sha256(clear + sealed_input), sha256(response_header + sealed_output)
    signed = pack(*receipt_of(*hashes, **receipt or {}))
    fields = {
        "accuser": CLIENT.multihash, "made_at_ms": NOW_MS + 900, "model_id": MODEL, "kind": 1, "tolerance": 1000,
        "receipt_body": signed, "provider_signature": signer.sign(receipt_domain, signed), "envelope_header": clear,
        "response_header": response_header, "payload_secret": b"" if plain else seal.PAYLOAD_SECRET,
        "response_secret": b"" if plain else seal.RESPONSE_SECRET, "input": INPUT, "output": OUTPUT, "expected": EXPECTED,
    }  # fmt: skip
    return [1, *(fields | change).values()]


PLAIN = {"suite": 0, "key_id": bytes(16), "commitment": bytes(32)}


def signed(body: list[Any], signer: Party = CLIENT, domain: str = DOMAIN) -> bytes:
    raw = pack(*body)
    return pack(1, raw, signer.sign(domain, raw))


def scenarios() -> Scenarios:
    found = Scenarios("evidence/1")
    _records(found)
    _good(found)
    _bad(found)
    return found


def _records(found: Scenarios) -> None:
    body = body_of()
    raw = pack(*body)
    signature = CLIENT.sign(DOMAIN, raw)
    fields = {**dict(zip(NAMES, body[1:], strict=True)), "accuser": CLIENT.peer_id}
    found.good("evidence", "2.2", "evidence.decode", raw, fields)
    found.good("evidence-trailing-field", "2.2", "evidence.decode", pack(*body, 1), fields, exact=False)
    found.bad("evidence-missing-field", "2.2", "evidence.decode", pack(*body[:-1]), "MALFORMED")
    for name, index, value, code in (
        ("version", 0, 2, "UNKNOWN_TAG"), ("accuser-short", 1, bytes(37), "MALFORMED"), ("time-negative", 2, -1, "BOUND"),
        ("model-id-short", 3, MODEL[:-1], "MALFORMED"), ("kind-zero", 4, 0, "BOUND"), ("kind-unknown", 4, 3, "BOUND"),
        ("tolerance-negative", 5, -1, "BOUND"), ("tolerance-too-large", 5, 1_000_001, "BOUND"),
        ("tolerance-float", 5, 0.001, "MALFORMED"), ("receipt-too-long", 6, bytes(1025), "BOUND"),
        ("provider-signature-short", 7, bytes(63), "MALFORMED"), ("header-too-long", 8, bytes(1025), "BOUND"),
        ("response-header-too-long", 9, bytes(1025), "BOUND"), ("payload-secret-short", 10, bytes(31), "MALFORMED"),
        ("response-secret-long", 11, bytes(33), "MALFORMED"), ("input-text", 12, "input", "MALFORMED"),
        ("output-nil", 13, None, "MALFORMED"), ("expected-a-number", 14, 7, "MALFORMED"),
    ):  # fmt: skip
        found.bad(f"evidence-{name}", "2.2", "evidence.decode", replaced(body, index, value), code)
    whole = {"body": raw, "signature": signature}
    found.good("signed", "2.1", "signed_evidence.decode", pack(1, raw, signature), whole)
    found.good("signed-trailing-field", "2.1", "signed_evidence.decode", pack(1, raw, signature, 1), whole, exact=False)
    for name, frame, code in (
        ("version", pack(2, raw, signature), "UNKNOWN_TAG"), ("short", pack(1, raw), "MALFORMED"),
        ("signature-short", pack(1, raw, signature[1:]), "MALFORMED"), ("body-text", pack(1, "x", signature), "MALFORMED"),
        ("body-garbage", pack(1, b"\xc1", signature), "MALFORMED"),
    ):  # fmt: skip
        found.bad(f"signed-{name}", "2.1", "signed_evidence.decode", frame, code)
    given: JSON = {"record": "evidence", "signer": CLIENT.peer_id, "body": raw, "signature": signature}
    found.add("verify", "3", "signed.verify", given, True)
    for name, change in (
        ("forged", {"signature": STRANGER.sign(DOMAIN, raw)}),
        ("altered", {"body": replaced(body, 14, INPUT)}),
        ("another-domain", {"signature": CLIENT.sign("cocoon-p2p/receipt/1", raw)}),
    ):
        found.add(f"verify-{name}", "3", "signed.verify", {**given, **change}, error("SIGNATURE"))


def _good(found: Scenarios) -> None:
    for name, body in (
        ("sealed", body_of()),
        ("by-quorum", body_of(kind=2, tolerance=0)),
        ("tier-open", body_of(plain=True, header=PLAIN, receipt={"tier": 1})),
        ("tier-attested", body_of(receipt={"tier": 3})),
        ("empty-output", body_of(output=b"")),
        ("nothing-expected", body_of(expected=b"")),
    ):
        found.add(f"check-{name}", "3", "evidence.check", {"frame": signed(body)}, ANSWER)


def _bad(found: Scenarios) -> None:
    def bad(name: str, code: str, frame: bytes) -> None:
        found.add(f"check-{name}", "3", "evidence.check", {"frame": frame}, error(code))

    honest = body_of()
    bad("signed-by-another", "SIGNATURE", signed(honest, STRANGER))
    bad("signed-in-another-domain", "SIGNATURE", signed(honest, domain="cocoon-p2p/receipt/1"))
    bad("altered-after-signing", "SIGNATURE", pack(1, replaced(honest, 5, 0), CLIENT.sign(DOMAIN, pack(*honest))))
    bad("receipt-signed-by-another", "SIGNATURE", signed(body_of(signer=STRANGER)))
    bad("receipt-signed-by-the-client-alone", "SIGNATURE", signed(body_of(signer=CLIENT)))
    bad("receipt-signed-in-another-domain", "SIGNATURE", signed(body_of(receipt_domain="cocoon-p2p/quote/1")))
    bad("receipt-names-another-provider", "SIGNATURE", signed(body_of(receipt={"provider": STRANGER.multihash})))
    bad("accuser-is-not-the-client", "EVIDENCE", signed(body_of(accuser=STRANGER.multihash), STRANGER))
    bad("receipt-of-another-client", "EVIDENCE", signed(body_of(receipt={"client": STRANGER.multihash})))
    other_model = draw("another model")
    bad("another-model", "EVIDENCE", signed(body_of(model_id=other_model)))
    bad("receipt-for-another-model", "EVIDENCE", signed(body_of(receipt={"model_id": other_model})))
    bad("header-for-another-model", "EVIDENCE", signed(body_of(header={"model_id": other_model})))
    other_job = draw("another job", 16)
    bad("receipt-for-frames", "EVIDENCE", signed(body_of(receipt={"frames": 1})))
    bad("receipt-of-another-job", "EVIDENCE", signed(body_of(receipt={"job_id": other_job})))
    bad("header-of-another-job", "EVIDENCE", signed(body_of(header={"job_id": other_job})))
    other_response = [1, other_job, seal.RESPONSE_HEADER[2]]
    bad("response-header-of-another-job", "EVIDENCE", signed(body_of(response=other_response)))
    bad("header-for-another-provider", "EVIDENCE", signed(body_of(header={"provider": STRANGER.multihash})))
    bad("header-for-another-length", "EVIDENCE", signed(body_of(header={"payload_bytes": len(INPUT) + 64})))
    # the very attack that the commitment is there for: secrets that open the ciphertext, but are not those committed to
    bad("secrets-not-committed-to", "EVIDENCE", signed(body_of(header={"commitment": draw("another commitment")})))
    bad("secrets-of-another-job", "EVIDENCE", signed(body_of(payload_secret=draw("another secret"))))
    bad("secrets-swapped", "EVIDENCE", signed(
        body_of(payload_secret=seal.RESPONSE_SECRET, response_secret=seal.PAYLOAD_SECRET)))  # fmt: skip
    bad("no-payload-secret", "EVIDENCE", signed(body_of(payload_secret=b"")))
    bad("no-secrets", "EVIDENCE", signed(body_of(payload_secret=b"", response_secret=b"")))
    bad("suite-not-the-tiers", "EVIDENCE", signed(body_of(receipt={"tier": 1})))
    bad("plain-in-a-sealed-tier", "EVIDENCE", signed(body_of(plain=True, header=PLAIN)))
    open_tier: dict[str, Any] = {"plain": True, "header": PLAIN, "receipt": {"tier": 1}}
    bad("tier-open-with-secrets", "EVIDENCE", signed(body_of(**open_tier, payload_secret=bytes(32))))
    committed = PLAIN | {"commitment": seal.COMMITMENT}
    bad("tier-open-with-a-commitment", "EVIDENCE", signed(body_of(**open_tier | {"header": committed})))
    bad("nobody-is-accused", "EVIDENCE", signed(body_of(expected=OUTPUT)))

    def later(name: str, index: int, value: bytes, body: list[Any]) -> None:
        """What the accuser puts down is not what the provider signed for."""
        bad(name, "EVIDENCE", signed([value if i == index else entry for i, entry in enumerate(body)]))

    flipped = INPUT[:-1] + b"\x01"
    later("another-input", 12, flipped, honest)
    later("another-output", 13, EXPECTED[:-1] + b"\x01", honest)
    later("input-and-output-swapped", 13, INPUT, honest)
    later("another-input-tier-open", 12, flipped, body_of(**open_tier))
    later("another-output-tier-open", 13, INPUT, body_of(**open_tier))
    later("another-nonce", 9, replaced(seal.RESPONSE_HEADER, 2, draw("another nonce")), honest)
    later("another-header", 8, pack(*header_of(items=2)), honest)
    bad("receipt-is-garbage", "MALFORMED", signed(body_of(receipt_body=b"\xc1")))
    bad("header-is-garbage", "MALFORMED", signed(body_of(envelope_header=b"\xc1")))
    bad("response-header-of-a-later-version", "UNKNOWN_TAG", signed(body_of(response=[2, *seal.RESPONSE_HEADER[1:]])))
