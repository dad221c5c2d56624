"""Scenarios of job/1, the payload container apart."""

from __future__ import annotations

from typing import Any

from generator import frames, payload, seal
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

QUOTE: list[Any] = [
    1, PROVIDER.multihash, CLIENT.multihash, JOB, MODEL, 2, 3, 1024, 1000, 250, 1750, NOW_MS + 10_000, 12, 0, b"", b"", 0,
]  # fmt: skip
QUOTE_NAMES = (
    "provider", "client", "job_id", "model_id", "tier", "items", "input_bytes", "price_base", "price_per_item", "max_total",
    "expires_at_ms", "queue_ms", "settlement_network", "payee_key", "seal_key_record", "instalment",
)  # fmt: skip
RECEIPT: list[Any] = [
    1, PROVIDER.multihash, CLIENT.multihash, JOB, MODEL, 2, draw("quote hash"), 1750, 3, draw("input hash"),
    draw("output hash"), 1200, 8700, NOW_MS + 500, 0,
]  # fmt: skip
RECEIPT_NAMES = (
    "provider", "client", "job_id", "model_id", "tier", "quote_hash", "price", "items", "input_hash", "output_hash",
    "queue_us", "execute_us", "finished_at_ms", "frames",
)  # fmt: skip
REFUSAL: list[Any] = [
    1, PROVIDER.multihash, CLIENT.multihash, JOB, MODEL, 2, "the price is 1,750 nanogram", 1750, NOW_MS + 3,
]  # fmt: skip
REFUSAL_NAMES = ("provider", "client", "job_id", "model_id", "reason", "detail", "needed", "issued_at_ms")
SIGNATURE = draw("signature", 64)
CHUNKS_BYTES_MAX = 16 * (65536 + 16)

MESSAGES: dict[str, tuple[str, tuple[str, ...], list[Any]]] = {
    "ASK": (
        "3.3",
        ("model_id", "tier", "items", "input_bytes", "max_total", "timeout_ms", "settlement_network", "instalment"),
        [1, JOB, MODEL, 2, 3, 1024, 5_000_000, 60_000, 0, 0],
    ),
    "QUOTE": ("3.4", ("body", "signature"), [2, JOB, pack(*QUOTE), SIGNATURE]),
    "REFUSAL": ("3.11", ("body", "signature"), [3, JOB, pack(*REFUSAL), SIGNATURE]),
    "ACCEPT": (
        "3.5",
        ("quote_hash", "payment", "envelope_header", "box", "paid"),
        [4, JOB, sha256(pack(*QUOTE)), draw("payment", 150), draw("header", 150), draw("box", 1200), 0],
    ),
    "INPUT": ("3.5", ("ciphertext", "final"), [5, JOB, draw("input", 1040), True]),
    "OUTPUT_HEAD": (
        "3.6",
        ("response_header", "payload_bytes", "queue_us", "execute_us"),
        [6, JOB, draw("response header", 54), 4736, 1200, 8700],
    ),
    "OUTPUT": ("3.6", ("ciphertext", "final"), [7, JOB, draw("output", 200), False]),
    "RECEIPT": ("3.7", ("body", "provider_signature", "client_signature"), [8, JOB, pack(*RECEIPT), SIGNATURE, b""]),
    "RECEIPT_ACK": ("3.7", ("client_signature",), [9, JOB, SIGNATURE]),
    "CANCEL": ("3.9", (), [10, JOB]),
    "FAILURE": ("3.10", ("code", "detail"), [11, JOB, 2, "4 items came, 3 were quoted"]),
    "SUBMIT": (
        "3.12",
        ("terms", "timeout_ms", "payment", "envelope_header", "box", "paid"),
        [12, JOB, pack(*QUOTE), 60_000, draw("payment", 150), draw("header", 180), draw("box", 1200), 0],
    ),
    "PROGRESS": ("3.13", ("phase", "left_ms"), [13, JOB, 2, 1400]),
    **frames.MESSAGES,
}


def named(names: tuple[str, ...], values: list[Any]) -> JSON:
    return {"job_id": JOB, **dict(zip(names, values[2:], strict=True))}


def scenarios() -> Scenarios:
    found = Scenarios("job/1")
    for message, (section, names, values) in MESSAGES.items():
        stem = message.lower().replace("_", "-")
        found.message(stem, section, pack(*values), message, named(names, values))
        later = pack(*values, None, "later")
        found.message(f"{stem}-trailing-fields", section, later, message, named(names, values), exact=False)
        found.bad(f"{stem}-missing-field", section, "job.decode", pack(*values[:-1]), "MALFORMED")
        found.bad(f"{stem}-job-id-short", section, "job.decode", replaced(values, 1, JOB[:-1]), "MALFORMED")
    _variants(found)
    _wrong_fields(found)
    _frames(found)
    _bodies(found)
    _signatures(found)
    payload.add_to(found)
    return found


def _variants(found: Scenarios) -> None:
    def variant(name: str, message: str, **change: Any) -> None:
        section, names, values = MESSAGES[message]
        changed = [*values[:2], *(change.get(n, v) for n, v in zip(names, values[2:], strict=True))]
        found.message(name, section, pack(*changed), message, named(names, changed))

    variant("ask-without-a-limit", "ASK", max_total=0)
    variant("ask-on-testnet", "ASK", settlement_network=-3, tier=1)
    variant("ask-largest", "ASK", items=1 << 20, input_bytes=1 << 31, max_total=(1 << 63) - 1, timeout_ms=3_600_000,
            instalment=1 << 20)  # fmt: skip
    variant("ask-for-frames", "ASK", items=4096, instalment=64)
    variant("refusal-longest-body", "REFUSAL", body=draw("body", 4096))
    variant("submit-tier-open", "SUBMIT", box=b"")
    variant("submit-longest", "SUBMIT", terms=draw("t", 1024), timeout_ms=3_600_000, payment=draw("p", 1024),
            envelope_header=draw("h", 1024), box=draw("b", 4096))  # fmt: skip
    variant("submit-shortest-time", "SUBMIT", timeout_ms=1)
    variant("submit-first-payment", "SUBMIT", terms=replaced(QUOTE, 16, 64), paid=412)
    variant("accept-first-payment", "ACCEPT", paid=1 << 20)
    for name, message, change in frames.VARIANTS:
        variant(name, message, **change)
    variant("progress-queued", "PROGRESS", phase=1, left_ms=0)
    variant("progress-time-not-known", "PROGRESS", left_ms=None)
    variant("progress-longest", "PROGRESS", left_ms=(1 << 32) - 1)
    variant("accept-tier-open", "ACCEPT", box=b"")
    variant("input-shortest", "INPUT", ciphertext=b"\x00")
    variant("input-of-255-bytes", "INPUT", ciphertext=draw("i", 255))
    variant("input-of-256-bytes", "INPUT", ciphertext=draw("i", 256))
    variant("receipt-with-both-signatures", "RECEIPT", client_signature=draw("client's signature", 64))
    for code in range(1, 14):
        variant(f"failure-code-{code}", "FAILURE", code=code)
    # msgpack's longer forms are read, too: bin 16 for 16 bytes of job id, uint 16 for 10
    long_forms = b"\x92\xcd\x00\x0a\xc5\x00\x10" + JOB
    found.message("cancel-in-longer-forms", "3.9", long_forms, "CANCEL", {"job_id": JOB}, exact=False)
    values = MESSAGES["INPUT"][2]
    long_input = b"\x94\x05\xc4\x10" + JOB + b"\xc6" + len(values[2]).to_bytes(4, "big") + values[2] + b"\xc3"
    fields = named(MESSAGES["INPUT"][1], values)
    found.message("input-in-longer-forms", "3.5", long_input, "INPUT", fields, exact=False)


def _wrong_fields(found: Scenarios) -> None:
    wrong: dict[str, list[tuple[str, int, Any, str]]] = {
        "ASK": [
            ("model-id-text", 2, MODEL.hex(), "MALFORMED"), ("tier-zero", 3, 0, "BOUND"), ("tier-unknown", 3, 4, "BOUND"),
            ("items-zero", 4, 0, "BOUND"), ("items-too-many", 4, (1 << 20) + 1, "BOUND"), ("items-float", 4, 3.0, "MALFORMED"),
            ("input-too-long", 5, (1 << 31) + 1, "BOUND"), ("limit-negative", 6, -1, "BOUND"),
            ("timeout-zero", 7, 0, "BOUND"), ("timeout-too-long", 7, 3_600_001, "BOUND"),
            ("network-too-small", 8, -(1 << 31) - 1, "BOUND"), ("instalment-negative", 9, -1, "BOUND"),
            ("instalment-too-large", 9, (1 << 20) + 1, "BOUND"), ("instalment-nil", 9, None, "MALFORMED"),
        ],
        "QUOTE": [("body-too-long", 2, bytes(3073), "BOUND"), ("signature-empty", 3, b"", "MALFORMED")],
        "REFUSAL": [
            ("body-too-long", 2, bytes(4097), "BOUND"), ("body-a-number", 2, 2, "MALFORMED"),
            ("signature-empty", 3, b"", "MALFORMED"), ("signature-short", 3, bytes(63), "MALFORMED"),
        ],
        "ACCEPT": [
            ("quote-hash-short", 2, bytes(31), "MALFORMED"), ("payment-too-long", 3, bytes(1025), "BOUND"),
            ("header-too-long", 4, bytes(1025), "BOUND"), ("box-too-long", 5, bytes(4097), "BOUND"),
            ("box-text", 5, "box", "MALFORMED"), ("paid-negative", 6, -1, "BOUND"), ("paid-text", 6, "64", "MALFORMED"),
        ],
        "INPUT": [
            ("empty", 2, b"", "BOUND"), ("text", 2, "input", "MALFORMED"), ("final-an-integer", 3, 1, "MALFORMED"),
            ("final-nil", 3, None, "MALFORMED"),
        ],
        "OUTPUT_HEAD": [
            ("header-too-long", 2, bytes(1025), "BOUND"), ("payload-too-long", 3, (1 << 31) + 1, "BOUND"),
            ("time-negative", 4, -1, "BOUND"),
        ],
        "OUTPUT": [("empty", 2, b"", "BOUND"), ("final-an-integer", 3, 0, "MALFORMED")],
        "RECEIPT": [
            ("body-too-long", 2, bytes(1025), "BOUND"), ("signature-short", 3, bytes(63), "MALFORMED"),
            ("client-signature-short", 4, bytes(63), "MALFORMED"),
        ],
        "RECEIPT_ACK": [("signature-empty", 2, b"", "MALFORMED")],
        "FAILURE": [
            ("code-zero", 2, 0, "BOUND"), ("code-unknown", 2, 14, "BOUND"), ("detail-too-long", 3, "x" * 513, "BOUND"),
        ],
        "SUBMIT": [
            ("terms-too-long", 2, bytes(1025), "BOUND"), ("terms-text", 2, "terms", "MALFORMED"),
            ("timeout-zero", 3, 0, "BOUND"), ("timeout-too-long", 3, 3_600_001, "BOUND"),
            ("timeout-float", 3, 60.0, "MALFORMED"), ("payment-too-long", 4, bytes(1025), "BOUND"),
            ("payment-nil", 4, None, "MALFORMED"), ("header-too-long", 5, bytes(1025), "BOUND"),
            ("box-too-long", 6, bytes(4097), "BOUND"), ("box-text", 6, "box", "MALFORMED"),
            ("paid-too-much", 7, (1 << 20) + 1, "BOUND"),
        ],
        "PROGRESS": [
            ("phase-zero", 2, 0, "BOUND"), ("phase-unknown", 2, 3, "BOUND"), ("phase-boolean", 2, True, "MALFORMED"),
            ("time-negative", 3, -1, "BOUND"), ("time-too-large", 3, 1 << 32, "BOUND"), ("time-float", 3, 1.5, "MALFORMED"),
            ("time-boolean", 3, False, "MALFORMED"),
        ],
        **frames.WRONG,
    }  # fmt: skip
    for message, cases in wrong.items():
        section, _, values = MESSAGES[message]
        stem = message.lower().replace("_", "-")
        for name, index, value, code in cases:
            found.bad(f"{stem}-{name}", section, "job.decode", replaced(values, index, value), code)


def _frames(found: Scenarios) -> None:
    for name, raw, code in (
        ("empty", b"", "MALFORMED"),
        ("empty-array", b"\x90", "MALFORMED"),
        ("tag-zero", pack(0, JOB), "UNKNOWN_TAG"),
        ("tag-eighteen", pack(18, JOB), "UNKNOWN_TAG"),
        ("tag-text", pack("ASK", JOB), "MALFORMED"),
        ("tag-boolean", pack(True, JOB), "MALFORMED"),
        ("a-map", b"\x81\x01\x02", "MALFORMED"),
        ("a-map-within", pack(10, JOB, {"a": 1}), "MALFORMED"),
        ("an-extension-type", b"\x93\x0a\xc4\x10" + JOB + b"\xd4\x01\x00", "MALFORMED"),
        ("bytes-after", pack(10, JOB) + b"\x00", "MALFORMED"),
        ("cut-short", pack(10, JOB)[:-1], "MALFORMED"),
        ("reserved-byte", b"\xc1", "MALFORMED"),
        ("nested-deep", b"\x91" * 5000 + b"\x01", "MALFORMED"),
        ("array-of-257", pack(10, JOB, list(range(257))), "MALFORMED"),
        ("array-announced-huge", b"\xdd\xff\xff\xff\xff\x0a", "MALFORMED"),
    ):
        found.bad(f"frame-{name}", "3", "job.decode", raw, code)


def _bodies(found: Scenarios) -> None:
    record = seal.signed_record()
    sealed = [*QUOTE[:14], draw("payee key"), record, 0]
    parties = {"provider": PROVIDER.peer_id, "client": CLIENT.peer_id}
    for name, body in (
        ("quote-body-tier-open", [*QUOTE[:5], 1, *QUOTE[6:]]), ("quote-body", sealed), ("quote-body-for-frames", [*sealed[:16], 64]),
    ):  # fmt: skip
        fields = {**dict(zip(QUOTE_NAMES, body[1:], strict=True)), **parties}
        found.good(name, "3.4", "quote_body.decode", pack(*body), fields)
    terms = {**dict(zip(QUOTE_NAMES, QUOTE[1:], strict=True)), **parties, "queue_ms": 0}
    found.good("terms", "3.12", "quote_body.decode", replaced(QUOTE, 12, 0), terms)
    for name, index, value, code in (
        ("version", 0, 2, "UNKNOWN_TAG"), ("provider-hashed", 1, b"\x12\x20" + bytes(32), "MALFORMED"),
        ("client-text", 2, CLIENT.peer_id, "MALFORMED"), ("tier-unknown", 5, 4, "BOUND"), ("items-zero", 6, 0, "BOUND"),
        ("price-negative", 8, -1, "BOUND"), ("price-float", 9, 0.1, "MALFORMED"), ("total-too-large", 10, 1 << 63, "BOUND"),
        ("expiry-float", 11, 1.76e12, "MALFORMED"), ("payee-key-short", 14, bytes(31), "MALFORMED"),
        ("record-too-long", 15, bytes(2049), "BOUND"), ("instalment-negative", 16, -1, "BOUND"),
    ):  # fmt: skip
        found.bad(f"quote-body-{name}", "3.4", "quote_body.decode", replaced(QUOTE, index, value), code)
    fields = {**dict(zip(RECEIPT_NAMES, RECEIPT[1:], strict=True)), **parties}
    found.good("receipt-body", "3.7", "receipt_body.decode", pack(*RECEIPT), fields)
    of_frames = {**fields, "items": 1 << 20, "frames": (1 << 20) + 1}
    frames_body = [*RECEIPT[:8], 1 << 20, *RECEIPT[9:14], (1 << 20) + 1]
    found.good("receipt-body-of-frames", "3.7", "receipt_body.decode", pack(*frames_body), of_frames)
    for name, index, value, code in (
        ("version", 0, 0, "UNKNOWN_TAG"), ("quote-hash-short", 6, bytes(31), "MALFORMED"),
        ("price-negative", 7, -1, "BOUND"), ("price-text", 7, "1750", "MALFORMED"), ("items-zero", 8, 0, "BOUND"),
        ("input-hash-empty", 9, b"", "MALFORMED"), ("time-float", 13, 1.0, "MALFORMED"), ("frames-negative", 14, -1, "BOUND"),
        ("frames-too-many", 14, (1 << 20) + 2, "BOUND"), ("frames-nil", 14, None, "MALFORMED"),
    ):  # fmt: skip
        found.bad(f"receipt-body-{name}", "3.7", "receipt_body.decode", replaced(RECEIPT, index, value), code)
    _refusals(found)


def _refusals(found: Scenarios) -> None:
    operation = "refusal_body.decode"

    def good(name: str, *, exact: bool = True, more: tuple[Any, ...] = (), **change: Any) -> None:
        values = [change.get(n, v) for n, v in zip(REFUSAL_NAMES, REFUSAL[1:], strict=True)]
        parties = {"provider": PROVIDER.peer_id, "client": CLIENT.peer_id}
        fields = {**dict(zip(REFUSAL_NAMES, values, strict=True)), **parties}
        fields["model_id"] = fields["model_id"] or None
        found.good(name, "3.11", operation, pack(1, *values, *more), fields, exact=exact)

    good("refusal-body")
    good("refusal-body-trailing-field", exact=False, more=("later",))
    good("refusal-body-model-not-known", model_id=b"", reason=7, needed=None)
    good("refusal-body-nothing-would-help", reason=3, detail="", needed=None)
    good("refusal-body-needs-nothing", needed=0)
    good("refusal-body-longest", detail="é" * 512, needed=(1 << 63) - 1)
    for reason in range(1, 11):
        good(f"refusal-body-reason-{reason}", reason=reason)
    for name, index, value, code in (
        ("version", 0, 2, "UNKNOWN_TAG"), ("provider-short", 1, bytes(37), "MALFORMED"),
        ("client-text", 2, CLIENT.peer_id, "MALFORMED"), ("job-id-short", 3, JOB[:-1], "MALFORMED"),
        ("model-id-short", 4, MODEL[:-1], "MALFORMED"), ("model-id-nil", 4, None, "MALFORMED"),
        ("reason-zero", 5, 0, "BOUND"), ("reason-unknown", 5, 11, "BOUND"), ("detail-too-long", 6, "x" * 513, "BOUND"),
        ("detail-bytes", 6, b"no", "MALFORMED"), ("needed-negative", 7, -1, "BOUND"), ("needed-too-large", 7, 1 << 63, "BOUND"),
        ("needed-boolean", 7, False, "MALFORMED"), ("time-float", 8, 1.0, "MALFORMED"), ("time-negative", 8, -1, "BOUND"),
    ):  # fmt: skip
        found.bad(f"refusal-body-{name}", "3.11", operation, replaced(REFUSAL, index, value), code)
    found.bad("refusal-body-missing-field", "3.11", operation, pack(*REFUSAL[:-1]), "MALFORMED")


def _signatures(found: Scenarios) -> None:
    for record, signer, body, section in (
        ("quote", PROVIDER, QUOTE, "3.4"), ("receipt", PROVIDER, RECEIPT, "3.7"), ("receipt", CLIENT, RECEIPT, "3.7"),
        ("refusal", PROVIDER, REFUSAL, "3.11"),
    ):  # fmt: skip
        raw, domain = pack(*body), f"cocoon-p2p/{record}/1"
        given = {"record": record, "signer": signer.peer_id, "body": raw, "signature": signer.sign(domain, raw)}
        stem = f"{record}-signed-by-{signer.name}"
        found.add(stem, section, "signed.verify", given, True)
        price = 10 if record == "quote" else 7  # of a refusal: what would do
        for name, change in (
            ("forged", {"signature": STRANGER.sign(domain, raw)}),
            ("altered-price", {"body": replaced(body, price, 1)}),
            ("altered-job", {"body": replaced(body, 3, draw("another job", 16))}),
            ("another-domain", {"signature": signer.sign("cocoon-p2p/capacity/1", raw)}),
        ):
            found.add(f"{stem}-{name}", section, "signed.verify", {**given, **change}, error("SIGNATURE"))
