"""One session of the provider's end of job/1, and a client that is written out by hand."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from job_pair import ANSWER, CLIENT, MODEL, PAYLOAD, PROVIDER, UNIX_MS, make_desk

from cocoon_p2p.ids import JobId, Tier
from cocoon_p2p.proto import job_effects as fx
from cocoon_p2p.proto.job_provider import ProviderSession
from cocoon_p2p.proto.provider_desk import ProviderDesk
from cocoon_p2p.sealing.envelope import RequestSecrets, plain_request, seal_request
from cocoon_p2p.sealing.signing import verify_signature
from cocoon_p2p.wire.capacity import DeviceClass, Offer, TierPrice, Unit
from cocoon_p2p.wire.job import (
    REFUSAL_DOMAIN,
    Input,
    JobMessage,
    QuoteBody,
    Refusal,
    RefusalBody,
    Submit,
    decode_refusal_body,
)
from cocoon_p2p.wire.seal import NO_COMMITMENT, NO_KEY_ID, SUITE_PLAIN, SUITE_XWING, EnvelopeHeader

JOB_ID = JobId(b"j" * 16)
NOW = 100.0


def terms_of(tier: Tier = Tier.SEALED, *, base: int = 1000, per_item: int = 10, **changes: object) -> QuoteBody:
    terms = QuoteBody(
        provider=PROVIDER.peer_id,
        client=CLIENT.peer_id,
        job_id=JOB_ID,
        model_id=MODEL,
        tier=tier,
        items=3,
        input_bytes=len(PAYLOAD),
        price_base=base,
        price_per_item=per_item,
        max_total=base + 3 * per_item,
        expires_at_ms=UNIX_MS + 1,
        queue_ms=0,
        settlement_network=0,
        payee_key=b"",
        seal_key_record=b"",
    )
    return dataclasses.replace(terms, **changes)  # type: ignore[arg-type]


@dataclass
class Scene:
    """One session. Effects are kept, and carried out only where a test says so."""

    desk: ProviderDesk = field(default_factory=make_desk)
    now: float = NOW
    unix_ms: int = UNIX_MS
    effects: list[fx.ProviderEffect] = field(default_factory=list)
    header: bytes = b""
    ciphertext: bytes = b""

    def __post_init__(self) -> None:
        self.session = ProviderSession(self.desk, CLIENT.peer_id, entropy=random.Random(1).randbytes)

    def take(self, effects: Sequence[fx.ProviderEffect]) -> None:
        self.effects += effects

    def hear(self, message: JobMessage) -> None:
        self.take(self.session.handle_message(message, now=self.now, unix_ms=self.unix_ms))

    def sent(self, kind: type) -> list[Any]:
        return [e.message for e in self.effects if isinstance(e, fx.Send) and isinstance(e.message, kind)]

    def of(self, kind: type) -> list[Any]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def refusal(self) -> RefusalBody:
        (refusal,) = self.sent(Refusal)
        assert isinstance(refusal, Refusal)
        assert verify_signature(PROVIDER.peer_id, REFUSAL_DOMAIN, refusal.body, refusal.signature)
        return decode_refusal_body(refusal.body)

    def sealed(self, terms: QuoteBody, *, commitment: bytes | None = None) -> tuple[bytes, bytes]:
        """(header, box) for these terms; the input is kept as ciphertext. `commitment`: to other secrets than the box has."""
        is_open = terms.tier is Tier.OPEN
        secrets = RequestSecrets.draw()
        key, _ = self.desk.seal_keys.current()
        self.header = EnvelopeHeader(
            suite=SUITE_PLAIN if is_open else SUITE_XWING,
            job_id=terms.job_id,
            model_id=terms.model_id,
            provider=terms.provider,
            key_id=NO_KEY_ID if is_open else key.key_id,
            max_total=terms.max_total,
            expires_at_ms=self.unix_ms + 60_000,
            payload_bytes=terms.input_bytes,
            items=terms.items,
            commitment=commitment or (NO_COMMITMENT if is_open else secrets.commitment),
        ).encode()
        request = plain_request(self.header) if is_open else seal_request(key.public_key, self.header, secrets)
        self.ciphertext = bytes(request.sealer.seal(PAYLOAD, True))
        return self.header, request.box

    def submission(self, terms: QuoteBody) -> Submit:
        return Submit(terms.job_id, terms.encode(), 60_000, b"payment", *self.sealed(terms))

    def submit(self, terms: QuoteBody | None = None) -> None:
        self.hear(self.submission(terms or terms_of()))

    def pay(self, job_id: JobId = JOB_ID) -> None:
        self.take(self.session.payment_taken(job_id, unix_ms=self.unix_ms))

    def give_input(self, job_id: JobId = JOB_ID) -> None:
        self.hear(Input(job_id, self.ciphertext, True))
        digest = hashlib.sha256(self.header + self.ciphertext).digest()
        self.take(self.session.input_complete(job_id, digest, unix_ms=self.unix_ms))

    def execute(self, job_id: JobId = JOB_ID) -> None:
        self.take(self.session.executed(job_id, items=3, payload_bytes=len(ANSWER), queue_us=5, execute_us=70))

    def return_output(self, job_id: JobId = JOB_ID) -> None:
        self.take(self.session.output_sent(job_id, b"\5" * 32, unix_ms=self.unix_ms))

    def executing(self) -> None:
        self.submit()
        self.pay()
        self.give_input()

    def done(self) -> None:
        self.executing()
        self.execute()
        self.return_output()


def announce(desk: ProviderDesk, base: int, per_item: int, *, expires_at_ms: int, unit: Unit = Unit.ITEM) -> None:
    offer = Offer(
        model_id=MODEL,
        name="minilm",
        unit=unit,
        prices=(TierPrice(Tier.SEALED, base, per_item),),
        items_max=100,
        input_bytes_max=10_000,
        slots_total=4,
        slots_free=4,
        queue_ms=0,
        device="cpu",
        device_class=DeviceClass.CPU,
        item_us=0,
        throughput=0,
    )
    desk.announced([offer], expires_at_ms)
