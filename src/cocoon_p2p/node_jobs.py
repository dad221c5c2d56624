"""Jobs that a node has others do: one, a dry run, why it went as it did, and the lists of what was done. Part of `Node`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cocoon_p2p.assembly import Parts
from cocoon_p2p.drivers.order import Order, Purchase
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.ids import PeerId, Tier, parse_peer_id
from cocoon_p2p.limits import (
    AMOUNT_NANOGRAM_MAX,
    GENERATION_TIMEOUT_TOKENS,
    HEDGE_MAX,
    JOB_TIMEOUT_MAX_S,
    QUORUM_MAX,
)
from cocoon_p2p.node_audit import agreement_row
from cocoon_p2p.policy.preference import PREFERENCES, Preference
from cocoon_p2p.rows import Row, job_row, receipt_row, receipt_rows
from cocoon_p2p.tensors import TEXT_INPUT, Payload, string_tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_NOTHING = Payload(())


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A job as it is asked for, but for its input."""

    model: str
    """Name or id."""
    tier: str | None = None
    """"sealed" or "open"; None: the configuration's."""
    max_price: int | None = None
    """nanogram, the most to pay; None: the configuration's."""
    provider: str | None = None
    """Peer id; None: the best offer."""
    timeout_s: float | None = None
    """The deadline: seconds from now to the result. None: the configuration's."""
    min_reliability: float | None = None
    """0 … 1, in this node's own experience; a stranger's is 0.5. None: the configuration's."""
    prefer: str | Preference | None = None
    """"balanced", "cheapest", "fastest", "reliable", or an object with a `score`. None: the configuration's."""
    hedge: int = 1
    """Providers that may do it at the same time: a further one begins when those before it are late or fail. Only the first
    whole answer is paid."""
    quorum: int = 1
    """Providers whose answers are compared; each is paid."""

    def with_time_for(self, max_tokens: int, timeout_s: float) -> RunRequest:
        """The same for an answer of so many tokens, where it says nothing of time; `timeout_s` is the configuration's."""
        if self.timeout_s is not None:
            return self
        allowed = timeout_s * max(1, -(-max_tokens // GENERATION_TIMEOUT_TOKENS))
        return replace(self, timeout_s=min(allowed, JOB_TIMEOUT_MAX_S))


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished job."""

    payload: Payload
    job_id: str
    model_id: str
    provider: str
    price_nanogram: int
    timeline_ms: dict[str, float]
    receipt: dict[str, Any] | None
    attempts: list[dict[str, str]] = field(default_factory=list)
    agreement: Row | None = None
    """What a quorum said; None for one answer."""
    evidence: tuple[bytes, ...] = field(default=(), repr=False)
    """Of the answers that it found wrong (evidence/1). It shows this job's input."""
    labels: tuple[str, ...] = ()
    """Of a classifier that was given texts: what each column of its output "scores" stands for."""
    texts_cut: int = 0
    """How many texts had more tokens than the model takes, and were cut: the provider's word."""
    tokens_max: int | None = None
    """Of a model that takes texts: the tokens of one that it looks at."""

    @property
    def paid_nanogram(self) -> int:
        """What all of it cost: of a quorum every answer, of which `price_nanogram` is the chosen one's."""
        return self.price_nanogram if self.agreement is None else int(self.agreement["price_nanogram"])


class NodeJobs:
    """The part of `Node` that gives jobs to others."""

    _parts: Parts

    # --- jobs ---

    async def run(
        self,
        model: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        text: Sequence[str] | None = None,
        max_price: int | None = None,
        tier: str | None = None,
        provider: str | None = None,
        timeout_s: float | None = None,
        min_reliability: float | None = None,
        prefer: str | Preference | None = None,
        hedge: int = 1,
        quorum: int = 1,
        outputs: Sequence[str] = (),
    ) -> dict[str, NDArray[np.generic]]:
        """Run one job somewhere in the network and return its outputs by name.

        `inputs` maps input names to arrays (any dtype and shape that the model takes); `text` is a list of n strings for
        a model with a text front end. `max_price` is nanogram; an answer that does not arrive is not paid. `timeout_s` is
        the deadline: until then the job goes on at up to five providers, one after the other. With `hedge` one more does it
        when a provider is late, up to so many at the same time, and the first whole answer is taken and paid; with `quorum`
        so many answers are compared and paid.
        `prefer` is a name of `policy.preference.PREFERENCES` or an object of your own with a `score`. `outputs` names the
        ones wanted; none means all.

        Raises ExecutionError (code INPUT: what the model wants), PeerRefused (PRICE: the lowest offer, and others),
        TransportError, CocoonError (NO_MODEL, NO_QUORUM), SettlementError. The hint names the command that shows who was
        asked and what each said (`why`).
        """
        from cocoon_p2p.execution.arrays import to_arrays

        request = RunRequest(
            model,
            tier=tier,
            max_price=max_price,
            provider=provider,
            timeout_s=timeout_s,
            min_reliability=min_reliability,
            prefer=prefer,
            hedge=hedge,
            quorum=quorum,
        )
        payload = payload_of(inputs, text, outputs)
        return to_arrays((await self.run_payload(request, payload)).payload)

    async def run_payload(self, request: RunRequest, payload: Payload) -> RunResult:
        """The same for a payload as it travels, with everything that is known of the job. Raises as `run`."""
        order = self._order(request, payload)
        checks = self._parts.checks
        if order.quorum > 1:
            chosen, judged = await checks.quorum.run(order, order.quorum)
            return replace(
                self._result(chosen, payload),
                agreement=agreement_row(judged, order.quorum),
                evidence=tuple(each.evidence for each in judged if each.evidence is not None),
            )
        purchase = await self._parts.buyer.buy(order)
        checks.repeater.offer(order, purchase)
        return self._result(purchase, payload)

    async def consider(self, request: RunRequest, payload: Payload) -> Row:
        """A dry run: who would do this job, at what price, and what every other one says; nothing is run or paid. The row is
        that of `why`. Raises CocoonError: NO_MODEL, INPUT."""
        return await self._parts.buyer.consider(self._order(request, payload))

    def why(self, job_id: str) -> Row:
        """Who was considered for one of this node's newest jobs (an id or the beginning of one), done or failed: for each
        provider its signed answer or why it was not asked, and what would have made it a yes. Raises ConfigError."""
        return self._parts.buyer.why(job_id)

    def jobs(self, limit: int = 100) -> list[Row]:
        """The newest jobs, as a client and as a provider."""
        return [job_row(job) for job in self._parts.store.jobs.newest(limit)]

    def receipts(self, limit: int = 100) -> list[Row]:
        """The newest receipts, as a client and as a provider."""
        return receipt_rows(self._parts.store, limit)

    def _order(self, request: RunRequest, payload: Payload) -> Order:
        """Raises ConfigError: what goes on the wire must be right before it goes."""
        client = self._parts.config.client
        _check_request(request)
        reliability = client.min_reliability if request.min_reliability is None else request.min_reliability
        return Order(
            model=request.model,
            payload=payload,
            tier=_tier(request.tier or client.tier),
            max_total=(client.max_price or None) if request.max_price is None else request.max_price,
            provider=_provider(request.provider),
            timeout_s=client.timeout_s if request.timeout_s is None else request.timeout_s,
            min_reliability=reliability,
            prefer=_preference(client.prefer if request.prefer is None else request.prefer),
            hedge=request.hedge,
            quorum=request.quorum,
        )

    def _result(self, purchase: Purchase, given: Payload = _NOTHING) -> RunResult:
        texts = sum(tensor.shape[0] for tensor in given.tensors if tensor.name == TEXT_INPUT and len(tensor.shape) == 1)
        text = purchase.text if texts else None
        kept = self._parts.store.receipts.by_job(purchase.job_id, role="client", peer=purchase.provider)
        return RunResult(
            payload=purchase.payload,
            job_id=purchase.job_id.hex(),
            model_id=purchase.model_id,
            provider=purchase.provider,
            price_nanogram=purchase.price,
            timeline_ms=purchase.timeline_ms,
            receipt=None if kept is None else receipt_row(kept),
            attempts=purchase.attempts,
            labels=() if text is None else text.labels,
            texts_cut=min(purchase.payload.cut, texts),
            tokens_max=None if text is None else text.max_tokens,
        )


def _check_request(request: RunRequest) -> None:
    """Raises ConfigError: what goes on the wire must be right before it goes."""
    price, timeout_s = request.max_price, request.timeout_s
    if price is not None and (type(price) is not int or not 0 <= price <= AMOUNT_NANOGRAM_MAX):
        raise ConfigError(
            f"max_price must be a whole number of nanogram, not {price!r}", hint="1 GRAM is 1_000_000_000"
        )
    if timeout_s is not None and not 0 < timeout_s <= JOB_TIMEOUT_MAX_S:
        raise ConfigError(f"timeout_s must be from 0 to {JOB_TIMEOUT_MAX_S:g} seconds, not {timeout_s!r}")

    _check_counts(request)


def _check_counts(request: RunRequest) -> None:
    for name, value, high in (("hedge", request.hedge, HEDGE_MAX), ("quorum", request.quorum, QUORUM_MAX)):
        if type(value) is not int or not 1 <= value <= high:
            raise ConfigError(f"{name} must be a whole number from 1 to {high}, not {value!r}")
    if request.hedge > 1 and request.quorum > 1:
        raise ConfigError(
            "give either hedge or quorum", hint="a quorum asks several providers anyway, and waits for all"
        )
    reliability = request.min_reliability
    if reliability is not None and not 0 <= reliability <= 1:
        raise ConfigError(f"min_reliability must be from 0 to 1, not {reliability!r}")


def payload_of(
    inputs: Mapping[str, Any] | None = None, text: Sequence[str] | None = None, outputs: Sequence[str] = ()
) -> Payload:
    """A job's input as it travels, from arrays by name or from texts; `outputs` names those wanted, none means all. Raises
    ConfigError, PayloadError."""
    from cocoon_p2p.execution.arrays import to_payload

    if (inputs is None) == (text is None):
        raise ConfigError("give either inputs or text", hint='node.run("minilm", text=["…"])')
    if isinstance(text, str):
        raise ConfigError("text must be a list of texts, not one text", hint='node.run("minilm", text=["…"])')
    if text is not None:
        texts = list(text)
        if not all(isinstance(each, str) for each in texts):
            raise ConfigError("text must be a list of texts, each a str", hint='node.run("minilm", text=["…"])')
        return Payload((string_tensor(TEXT_INPUT, texts),), tuple(outputs))
    return to_payload(inputs or {}, tuple(outputs))


def _preference(given: str | Preference) -> Preference:
    if not isinstance(given, str):
        if not callable(getattr(given, "score", None)):
            raise ConfigError(f"prefer: {given!r} has no method score(wanted, candidate)")
        return given
    known = PREFERENCES.get(given)
    if known is None:
        raise ConfigError(f"there is no preference {given!r}", hint=", ".join(PREFERENCES))
    return known


def _tier(text: str) -> Tier:
    if text not in ("sealed", "open"):
        raise ConfigError(f"there is no tier {text!r}", hint="sealed or open")
    return Tier[text.upper()]


def _provider(text: str | None) -> PeerId | None:
    if text is None:
        return None
    try:
        return parse_peer_id(text)
    except ValueError as error:
        raise ConfigError(f"provider: {error}") from error
