"""Both ends of an answer in frames, with their money, without any IO: messages may be lost with the connection, either end may
die and begin anew from what it wrote, and time is a number."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections import deque
from dataclasses import dataclass, field

from job_pair import CLIENT, JOB_ID, MODEL, PAYLOAD, PROVIDER, UNIX_MS, make_desk

from cocoon_p2p.errors import CocoonError, RemoteProtocolError, SettlementError, TransportError
from cocoon_p2p.generation import Piece, Token
from cocoon_p2p.ids import Tier
from cocoon_p2p.policy.pricing import FixedPricing
from cocoon_p2p.proto import job_effects as fx
from cocoon_p2p.proto.job_answers import Owed, check_receipt, check_stray_receipt, decode_owed
from cocoon_p2p.proto.job_client import ClientJob, JobTerms
from cocoon_p2p.proto.job_provider import ProviderSession
from cocoon_p2p.proto.job_states import ClientState
from cocoon_p2p.proto.provider_desk import ProviderDesk, ServedModel
from cocoon_p2p.wire.capacity import Unit
from cocoon_p2p.wire.job import (
    Cancel,
    Failure,
    FailureCode,
    Frame,
    Input,
    JobMessage,
    Receipt,
    ReceiptAck,
    decode_message,
    decode_receipt_body,
)

BASE, PER_TOKEN = 1000, 10
WHOLE = Piece((), "", "stop")


def make_stream_desk(*, base: int = BASE, per_token: int = PER_TOKEN, items_max: int = 5000) -> ProviderDesk:
    desk = make_desk()
    served = ServedModel(MODEL, "llm", FixedPricing(base, per_token), "cpu", Unit.TOKEN, items_max)
    return dataclasses.replace(desk, models={MODEL: served})


def make_stream_terms(
    *, items: int = 1000, instalment: int = 64, prepaid: int = 100, tier: Tier = Tier.OPEN, max_total: int | None = None
) -> JobTerms:
    return JobTerms(MODEL, tier, items, len(PAYLOAD), max_total, 600, 0, instalment=instalment, prepaid=prepaid)


@dataclass
class Money:
    """One side's book of one job, with the rules of `settlement.port`: a reservation, and how it ended."""

    reserved: int | None = None
    state: str = "none"
    price: int = 0
    settled: int = 0
    """How often a price was booked that was not booked before."""

    def reserve(self, amount: int) -> None:
        assert self.state in ("none", "released", "reserved")
        assert self.reserved is None or amount >= self.reserved, "a reservation only grows"
        self.reserved, self.state = amount, "reserved"

    def settle(self, price: int) -> None:
        assert self.reserved is not None
        if (self.state, self.price) == ("settled", price):
            return
        assert self.state in ("reserved", "unknown"), self.state
        assert 0 <= price <= self.reserved
        self.state, self.price, self.settled = "settled", price, self.settled + 1

    def end(self, state: str) -> None:
        if self.state in ("reserved", "unknown"):
            self.state = state

    @property
    def booked(self) -> int:
        """As this side counts it now."""
        return {"settled": self.price, "unknown": self.reserved or 0}.get(self.state, 0)


@dataclass
class Model:
    """Makes tokens up to what it is allowed, until its answer is done."""

    prompt: int
    answer: int
    allowed: int
    items: int = 0
    stopped: bool = False
    done: bool = False

    def work(self, at_most: int) -> tuple[bytes, int, bool] | None:
        """The next piece, of at most so many tokens: data, items, final."""
        if self.done or self.allowed < self.prompt:
            return None
        made = 0 if self.stopped else self.items - self.prompt if self.items else 0
        new = 0 if self.stopped else min(at_most, self.answer - made, self.allowed - max(self.items, self.prompt))
        final = self.stopped or made + new == self.answer
        if new <= 0 and not final:
            return None
        start = max(self.items, self.prompt)
        self.items, self.done = start + new, final
        finish = "caller" if self.stopped else "stop" if final else None
        piece = Piece(tuple(Token(start + i) for i in range(new)), "x" * new, finish)
        return piece.encode(), self.items, final


@dataclass
class StreamPair:
    terms: JobTerms = field(default_factory=make_stream_terms)
    desk: ProviderDesk = field(default_factory=make_stream_desk)
    prompt: int = 40
    answer: int = 300
    wallet: int = 10**15
    """Nanogram that the client has."""
    at_a_time: int = 5
    """Tokens in a frame at most."""

    def __post_init__(self) -> None:
        self.now = 100.0
        self.client = ClientJob(CLIENT, PROVIDER.peer_id, JOB_ID, self.terms, deadline=self.now + 600)
        self.session = self._new_session()
        self.to_client: deque[bytes] = deque()
        self.to_provider: deque[bytes] = deque()
        self.client_log: list[fx.ClientEffect] = []
        self.provider_log: list[fx.ProviderEffect] = []
        self.paying, self.earning = Money(), Money()
        self.kept_marks = b""
        """On the client's disk."""
        self.kept_receipt: Receipt | None = None
        """On the provider's disk."""
        self.signed = False
        self.model: Model | None = None
        self.tokens: list[int] = []
        self.error: CocoonError | None = None
        self.finished = False
        self.connected = True
        self._input = hashlib.sha256()
        self._opener: object = None

    def _new_session(self) -> ProviderSession:
        return ProviderSession(self.desk, CLIENT.peer_id, entropy=random.Random(self.now).randbytes)

    # --- driving ---

    def begin(self) -> None:
        """To where the model is about to work."""
        self.begin_unpaid()
        self.pump()

    def begin_unpaid(self) -> None:
        """To where the prompt is counted, and the client has not heard of it."""
        self.run_client(self.client.start(self.now))
        self.pump()
        self.run_client(self.client.accept(self._pay(self.client.first_total), now=self.now, unix_ms=UNIX_MS))
        while self.to_provider:
            self.deliver_to_provider()

    def whole(self) -> None:
        self.begin()
        while not self.finished:
            if not self.step():
                self.now = min(d for d in (self.client.next_deadline(), self.session.next_deadline()) if d)
                self.tick()

    def step(self) -> bool:
        """The model works once, and all messages are delivered; whether anything happened."""
        worked = self.work()
        busy = bool(self.to_client or self.to_provider)
        self.pump()
        return worked or busy

    def work(self) -> bool:
        made = self.model.work(self.at_a_time) if self.model is not None else None
        if made is None:
            return False
        data, items, final = made
        self.run_provider(
            self.session.produced(JOB_ID, data=data, items=items, final=final, execute_us=items * 7, now=self.now)
        )
        return True

    def tick(self) -> None:
        self.run_client(self.client.handle_timer(self.now))
        self.run_provider(self.session.handle_timer(self.now))

    def pump(self) -> None:
        while self.to_client or self.to_provider:
            self.deliver_to_provider()
            self.deliver_to_client()

    def deliver_to_provider(self) -> None:
        if self.to_provider:
            self.hear_at_provider(decode_message(self.to_provider.popleft()))

    def hear_at_provider(self, message: JobMessage) -> None:
        self.run_provider(self.session.handle_message(message, now=self.now, unix_ms=UNIX_MS))

    def deliver_to_client(self) -> None:
        if not self.to_client:
            return
        message = decode_message(self.to_client.popleft())
        if self.client.over:
            self._stray(message)
            return
        self.client.heard(self.now)
        self.run_client(self.client.handle_message(message, unix_ms=UNIX_MS))

    # --- what breaks ---

    def break_connection(self) -> None:
        """What was under way is lost."""
        self.to_client.clear()
        self.to_provider.clear()
        self.connected = False
        self.run_provider(self.session.lost("the connection ended"))
        self.run_client(self.client.lost(TransportError("the connection broke", outcome_known=False)))

    def kill_provider(self) -> None:
        """It begins anew from its disk (`drivers.recovery`)."""
        self.to_client.clear()
        self.to_provider.clear()
        self.connected = False
        if self.earning.state == "reserved":
            if self.kept_receipt is not None:
                self.earning.settle(decode_receipt_body(self.kept_receipt.body).price)
            else:
                self.earning.end("released")
        self.model = None
        self.desk.running = 0
        self.session = self._new_session()
        self.run_client(self.client.lost(TransportError("the connection broke", outcome_known=False)))

    def kill_client(self) -> None:
        self.to_client.clear()
        self.to_provider.clear()
        self.connected = False
        self.run_provider(self.session.lost("the connection ended"))
        self.paying.end("unknown")
        if not self.finished:
            self.finished = True
            self.client.lost(TransportError("killed", outcome_known=False))

    def meet_again(self) -> None:
        """A new stream: the provider sends the receipt that lacks a signature, the client asks about what it does not know."""
        self.connected = True
        self.session = self._new_session()
        if self.kept_receipt is not None and not self.signed:
            self.run_provider(self.session.resend_receipts([self.kept_receipt]))
        if self.paying.state == "unknown":
            self.to_provider.append(Cancel(JOB_ID).encode())
        self.pump()

    def _stray(self, message: JobMessage) -> None:
        """`drivers.job_outcomes`."""
        if isinstance(message, Failure) and message.code is FailureCode.CANCELLED:
            self.paying.end("released")
        if not isinstance(message, Receipt):
            return
        receipt, body = check_stray_receipt(CLIENT, PROVIDER.peer_id, message)
        owed: Owed | None = decode_owed(self.kept_marks) if self.kept_marks else None
        if owed is None:
            self.to_provider.append(Cancel(JOB_ID).encode())
            return
        check_receipt(body, owed)
        self.paying.settle(body.price)
        self.to_provider.append(ReceiptAck(JOB_ID, receipt.client_signature).encode())

    # --- effects ---

    def _pay(self, total: int) -> bytes:
        """A payment says only how far it reaches."""
        if total > self.wallet:
            raise SettlementError("the wallet is empty", code="BALANCE")
        self.paying.reserve(total)
        return total.to_bytes(16)

    def run_client(self, effects: list[fx.ClientEffect]) -> None:
        for effect in effects:
            self.client_log.append(effect)
            match effect:
                case fx.Send(message):
                    if self.connected:
                        self.to_provider.append(message.encode())
                case fx.SendInput(sealer, header):
                    sealed = bytes(sealer.seal(PAYLOAD, True))
                    self.run_client(self.client.input_sent(hashlib.sha256(header + sealed).digest()))
                    self.to_provider.append(Input(JOB_ID, sealed, True).encode())
                case fx.ReserveMore(total):
                    try:
                        payment = self._pay(total)
                    except SettlementError as error:
                        self.run_client(self.client.more_failed(error))
                    else:
                        self.run_client(self.client.more_reserved(payment))
                case fx.KeepMarks(owed):
                    self.kept_marks = owed.encode()
                    assert decode_owed(self.kept_marks) == owed
                case fx.Received(piece, _):
                    self.tokens += [token.id for token in piece.tokens]
                case fx.MarkPaid(_, body):
                    self.paying.settle(body.price)
                case fx.EndReservation(outcome_known):
                    self.paying.end("released" if outcome_known else "unknown")
                case fx.Finished(error):
                    assert not self.finished, "every job ends once"
                    self.finished, self.error = True, error

    def run_provider(self, effects: list[fx.ProviderEffect]) -> None:
        for effect in effects:
            self.provider_log.append(effect)
            match effect:
                case fx.Send(message):
                    if self.connected:
                        self.to_client.append(message.encode())
                case fx.TakePayment(job_id, payment, amount):
                    assert int.from_bytes(payment) >= amount
                    self.earning.reserve(amount)
                    self.run_provider(self.session.payment_taken(job_id, unix_ms=UNIX_MS))
                case fx.TakeMore(job_id, payment, total, paid):
                    if total > max(int.from_bytes(payment), self.earning.reserved or 0):
                        error = RemoteProtocolError("no voucher of this channel", code="VOUCHER_SIGNATURE")
                        self.run_provider(self.session.more_bad(job_id, error))
                        continue
                    self.earning.reserve(total)
                    self.run_provider(self.session.more_taken(job_id, paid, now=self.now))
                case fx.KeepReceipt(_, receipt, _):
                    self.kept_receipt = receipt
                case fx.Earn(_, receipt, body):
                    self.kept_receipt = receipt
                    self.earning.settle(body.price)
                case fx.ReleasePayment():
                    self.earning.end("released")
                case fx.KeepSignature():
                    self.signed = True
                case fx.GiveBack(job_id):
                    if self.kept_receipt is None:
                        self.run_provider(self.session.not_earned(job_id))
                    elif not self.signed:
                        self.run_provider(self.session.resend_receipts([self.kept_receipt]))
                case fx.Closed():
                    self.model = None
                case _:
                    self._work_on(effect)

    def _work_on(self, effect: fx.ProviderEffect) -> None:
        match effect:
            case fx.BeginInput(_, opener, _, header):
                self._input, self._opener = hashlib.sha256(header), opener
            case fx.WriteInput(job_id, ciphertext, final):
                self._opener.open_into(ciphertext, memoryview(bytearray(len(PAYLOAD))), final)  # type: ignore[attr-defined]
                self._input.update(ciphertext)
                digest = self._input.digest()
                self.run_provider(self.session.input_complete(job_id, digest, unix_ms=UNIX_MS))
            case fx.Generate(job_id, _, _, allowed):
                self.model = Model(self.prompt, self.answer, allowed)
                begun = self.session.stream_begun(job_id, prompt_items=self.prompt, queue_us=3, now=self.now)
                self.run_provider(begun)
            case fx.Allow(_, items):
                if self.model is not None:
                    self.model.allowed = max(self.model.allowed, items)
            case fx.EndWork():
                if self.model is not None:
                    self.model.stopped = True

    def of(self, kind: type) -> list[fx.ClientEffect | fx.ProviderEffect]:
        return [each for each in (*self.client_log, *self.provider_log) if isinstance(each, kind)]

    @property
    def items_sent(self) -> int:
        return max(each.items for each in sent(self, Frame))

    @property
    def streaming(self) -> bool:
        return self.client.state is ClientState.STREAMING


def price(items: int) -> int:
    return BASE + PER_TOKEN * items


def sent(pair: StreamPair, kind: type) -> list:  # type: ignore[type-arg]
    return [each.message for each in pair.of(fx.Send) if isinstance(each.message, kind)]  # type: ignore[union-attr]


def streaming(steps: int = 4, **given: object) -> StreamPair:
    pair = StreamPair(**given)  # type: ignore[arg-type]
    pair.begin()
    for _ in range(steps):
        pair.step()
    return pair
