"""The exceptions of cocoon_p2p. Each says whose fault it was, and, where that matters, whether the outcome is known.

CocoonError(code, retryable)
├ ConfigError             the operator's: which key of which file, and what would be right; CLI exit status 2
├ ProtocolError
│  ├ LocalProtocolError   our own bug
│  └ RemoteProtocolError  the peer's fault: it loses standing
├ PeerRefused(reason)     a well-formed "no", with what would make it a yes
├ TransportError          the connection; `outcome_known` tells whether the peer can have acted
├ ExecutionError          the model, its input, or the sandbox
├ SettlementError         channels, vouchers, balances; `needed` tells what would do
└ StoreError              the database of jobs and receipts
"""

from __future__ import annotations

from enum import IntEnum


class CocoonError(Exception):
    """Base of all errors of this package.

    `code` is a stable upper-case word for programs; `hint` says what to do next, for people.
    """

    default_code = "ERROR"

    def __init__(
        self, message: str, *, code: str | None = None, retryable: bool = False, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.retryable = retryable
        self.hint = hint


class ConfigError(CocoonError):
    """The operator's input is wrong: a configuration key, an argument, a file. The CLI exits with status 2."""

    default_code = "CONFIG"


class ProtocolError(CocoonError):
    """A rule of a protocol was broken."""

    default_code = "PROTOCOL"


class LocalProtocolError(ProtocolError):
    """We broke the rule: a bug in this program."""

    default_code = "LOCAL_PROTOCOL"


class RemoteProtocolError(ProtocolError):
    """The peer broke the rule; it loses standing."""

    default_code = "REMOTE_PROTOCOL"


class RefusalReason(IntEnum):
    """Why a provider says no (job/1 §6). The numbers are on the wire and never change."""

    BUSY = 1
    PRICE = 2
    NO_MODEL = 3
    TIER = 4
    LIMITS = 5
    PAYMENT = 6
    QUOTE_EXPIRED = 7
    STANDING = 8
    SHUTTING_DOWN = 9
    IDLE_POLICY = 10


class PeerRefused(CocoonError):
    """A well-formed "no" from a provider. `needed` is the number that would make it a yes: nanogram for PRICE, a
    cumulative amount for PAYMENT, milliseconds to wait for BUSY, a bound for LIMITS; None where no number would.
    `signed` is the provider's own word to show: body and signature (job/1 §3.11); None for a "no" of our own."""

    default_code = "REFUSED"

    def __init__(
        self,
        reason: RefusalReason,
        detail: str,
        *,
        needed: int | None = None,
        hint: str | None = None,
        signed: tuple[bytes, bytes] | None = None,
    ) -> None:
        super().__init__(detail, code=reason.name, retryable=True, hint=hint)
        self.reason = reason
        self.needed = needed
        self.signed = signed


class TransportError(CocoonError):
    """The connection failed. `outcome_known` is False when the peer may have acted on what we sent before."""

    default_code = "TRANSPORT"

    def __init__(self, message: str, *, outcome_known: bool, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, code=code, retryable=True, hint=hint)
        self.outcome_known = outcome_known


class EndOfStream(TransportError):
    """The peer ended the stream cleanly, with the end frame of its protocol; nothing was cut off."""

    def __init__(self, message: str = "the peer closed the stream") -> None:
        super().__init__(message, outcome_known=True, code="END_OF_STREAM")


class ExecutionError(CocoonError):
    """The model, its input, or the worker that ran it. The codes are those of job/1 §7 (`FailureCode`)."""

    default_code = "EXECUTION"


class SettlementError(CocoonError):
    """A channel, a voucher or a balance. `needed` is the amount in nanogram that would make it work, where one would:
    the cumulative amount for CREDIT, the price of the job and of its channel for BALANCE."""

    default_code = "SETTLEMENT"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retryable: bool = False,
        hint: str | None = None,
        needed: int | None = None,
    ) -> None:
        super().__init__(message, code=code, retryable=retryable, hint=hint)
        self.needed = needed


class StoreError(CocoonError):
    """The database of jobs and receipts cannot be written or read: the disk is full, gone or damaged."""

    default_code = "STORE"


LOG_CHARS_MAX = 512
"""As much as a refusal's detail may have."""


def one_line(text: object) -> str:
    """What a peer wrote, or an error that quotes it, for our log: one printable line, whatever it put into it."""
    shown = str(text)
    line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown[:LOG_CHARS_MAX])
    return line if len(shown) <= LOG_CHARS_MAX else line + "…"
