"""Both ends of job/1 joined without any IO: effects are carried out by hand, time is a number."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from dataclasses import dataclass, field

from cocoon_p2p.ids import JobId, ModelId, Tier
from cocoon_p2p.policy.pricing import FixedPricing
from cocoon_p2p.proto import job_effects as fx
from cocoon_p2p.proto.job_client import ClientJob, JobTerms
from cocoon_p2p.proto.job_provider import ProviderSession
from cocoon_p2p.proto.provider_desk import ProviderDesk, ServedModel
from cocoon_p2p.sealing.seal_keys import SealKeyRing
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.wire.job import Input, JobMessage, Output, decode_message
from cocoon_p2p.wire.seal import make_seal_key_record

UNIX_MS = 1_800_000_000_000
MODEL = ModelId("ab" * 32)
CLIENT = IdentityKey.from_seed(bytes([1]) * 32)
PROVIDER = IdentityKey.from_seed(bytes([2]) * 32)
JOB_ID = JobId(b"j" * 16)
PAYLOAD = bytes(range(64)) * 3
ANSWER = b"answer64" * 16


def make_desk(*, slots: int = 4) -> ProviderDesk:
    ring = SealKeyRing(
        lambda key, start, end: make_seal_key_record(PROVIDER.peer_id, key.public_key, start, end, PROVIDER.sign),
        UNIX_MS,
    )
    model = ServedModel(MODEL, "minilm", FixedPricing(1000, 10), "cpu")
    return ProviderDesk(
        identity=PROVIDER,
        seal_keys=ring,
        settlement_network=0,
        slots=slots,
        tiers=frozenset({Tier.SEALED, Tier.OPEN}),
        items_max=100,
        input_bytes_max=10_000,
        bytes_in_flight_max=20_000,
        models={MODEL: model},
    )


def make_terms(*, tier: Tier = Tier.SEALED, items: int = 3, max_total: int | None = 5000) -> JobTerms:
    return JobTerms(
        model_id=MODEL,
        tier=tier,
        items=items,
        payload_bytes=len(PAYLOAD),
        max_total=max_total,
        timeout_s=60,
        settlement_network=0,
    )


@dataclass
class Pair:
    """One client job and the provider's session. `to_client` and `to_provider` hold encoded messages on their way."""

    terms: JobTerms = field(default_factory=make_terms)
    desk: ProviderDesk = field(default_factory=make_desk)
    job_id: JobId = field(default=JOB_ID)
    items_done: int = 3
    credit: bool = True
    now: float = 100.0

    def __post_init__(self) -> None:
        self.client = ClientJob(CLIENT, PROVIDER.peer_id, self.job_id, self.terms, deadline=self.now + 60)
        self.provider = ProviderSession(self.desk, CLIENT.peer_id, entropy=random.Random(1).randbytes)
        self.to_client: deque[bytes] = deque()
        self.to_provider: deque[bytes] = deque()
        self.client_log: list[fx.ClientEffect] = []
        self.provider_log: list[fx.ProviderEffect] = []
        self.received = bytearray()
        self.output = bytearray()
        self.sent_input = b""
        self._opener: object = None
        self._input_hash = hashlib.sha256()
        self._output_hash = hashlib.sha256()
        self._out_opener: object = None

    # --- driving ---

    def start(self) -> None:
        self.run_client(self.client.start(self.now))

    def accept(self) -> None:
        self.run_client(self.client.accept(b"payment", now=self.now, unix_ms=UNIX_MS))

    def pump(self) -> None:
        """Deliver until nothing is on its way."""
        while self.to_client or self.to_provider:
            if self.to_provider:
                self.deliver_to_provider(self.to_provider.popleft())
            if self.to_client:
                self.deliver_to_client(self.to_client.popleft())

    def whole_job(self) -> None:
        self.start()
        self.pump()
        self.accept()
        self.pump()

    def deliver_to_provider(self, frame: bytes) -> None:
        message = decode_message(frame)
        self.run_provider(self.provider.handle_message(message, now=self.now, unix_ms=UNIX_MS))

    def deliver_to_client(self, frame: bytes) -> None:
        self.run_client(self.client.handle_message(decode_message(frame), unix_ms=UNIX_MS))

    def messages_to_client(self) -> list[JobMessage]:
        return [decode_message(frame) for frame in self.to_client]

    # --- effects ---

    def run_client(self, effects: list[fx.ClientEffect]) -> None:
        for effect in effects:
            self.client_log.append(effect)
            match effect:
                case fx.Send(message):
                    self.to_provider.append(message.encode())
                case fx.SendInput(sealer, header):
                    sealed = bytes(sealer.seal(PAYLOAD, True))
                    self.run_client(self.client.input_sent(hashlib.sha256(header + sealed).digest()))
                    self.sent_input = Input(self.job_id, sealed, True).encode()
                    self.to_provider.append(self.sent_input)
                case fx.BeginOutput(opener, payload_bytes, header):
                    self.output = bytearray(payload_bytes)
                    self._output_hash = hashlib.sha256(header)
                    self._out_opener = opener
                case fx.WriteOutput(ciphertext, final):
                    self._out_opener.open_into(ciphertext, memoryview(self.output), final)  # type: ignore[attr-defined]
                    self._output_hash.update(ciphertext)
                    if final:
                        self.run_client(self.client.output_complete(self._output_hash.digest()))

    def run_provider(self, effects: list[fx.ProviderEffect]) -> None:
        for effect in effects:
            self.provider_log.append(effect)
            match effect:
                case fx.Send(message):
                    self.to_client.append(message.encode())
                case fx.TakePayment(job_id, _, _):
                    if self.credit:
                        self.run_provider(self.provider.payment_taken(job_id, unix_ms=UNIX_MS))
                    else:
                        self.run_provider(self.provider.payment_refused(job_id, "no credit", 1030, unix_ms=UNIX_MS))
                case fx.BeginInput(_, opener, payload_bytes, header):
                    self.received = bytearray(payload_bytes)
                    self._input_hash = hashlib.sha256(header)
                    self._opener = opener
                case fx.WriteInput(job_id, ciphertext, final):
                    self._opener.open_into(ciphertext, memoryview(self.received), final)  # type: ignore[attr-defined]
                    self._input_hash.update(ciphertext)
                    if final:
                        digest = self._input_hash.digest()
                        self.run_provider(self.provider.input_complete(job_id, digest, unix_ms=UNIX_MS))
                case fx.Execute(job_id, _, _):
                    self.run_provider(
                        self.provider.executed(
                            job_id, items=self.items_done, payload_bytes=len(ANSWER), queue_us=5, execute_us=70
                        )
                    )
                case fx.SendOutput(job_id, sealer, header):
                    sealed = bytes(sealer.seal(ANSWER, True))
                    self.to_client.append(Output(job_id, sealed, True).encode())
                    self.run_provider(
                        self.provider.output_sent(job_id, hashlib.sha256(header + sealed).digest(), unix_ms=UNIX_MS)
                    )

    def effects_of(self, kind: type) -> list[object]:
        return [e for e in (*self.client_log, *self.provider_log) if isinstance(e, kind)]
