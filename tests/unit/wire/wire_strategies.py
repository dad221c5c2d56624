"""Hypothesis strategies: every message and record of the wire formats, and hostile bytes that look like them."""

from __future__ import annotations

from typing import Any

import msgpack
from hypothesis import strategies as st

from cocoon_p2p import limits
from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.ids import JobId, ModelId, Tier, peer_id_from_public_key
from cocoon_p2p.wire import capacity, evidence, job, market_file, seal, voucher


def raw(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


def maybe(size: int) -> st.SearchStrategy[bytes]:
    return st.just(b"") | raw(size)


amounts = st.integers(0, limits.AMOUNT_NANOGRAM_MAX)
times = st.integers(0, 2**63 - 1)
uint32 = st.integers(0, 2**32 - 1)
networks = st.sampled_from([0, -3, -239, 2**31 - 1, -(2**31)])
job_ids = raw(16).map(JobId)
model_ids = raw(32).map(lambda b: ModelId(b.hex()))
peer_ids = raw(32).map(peer_id_from_public_key)
tiers = st.sampled_from(Tier)
items = st.integers(1, limits.ITEMS_PER_JOB_MAX)
sizes = st.integers(0, limits.JOB_BYTES_MAX)
details = st.text(max_size=40)
signatures = raw(64)
ciphertexts = st.binary(min_size=1, max_size=700)

quote_bodies = st.builds(
    job.QuoteBody, peer_ids, peer_ids, job_ids, model_ids, tiers, items, sizes, amounts, amounts, amounts, times, uint32,
    networks, maybe(32), st.binary(max_size=64),
)  # fmt: skip
receipt_bodies = st.builds(
    job.ReceiptBody, peer_ids, peer_ids, job_ids, model_ids, tiers, raw(32), amounts, items, raw(32), raw(32), times, times,
    times,
)  # fmt: skip
refusal_bodies = st.builds(
    job.RefusalBody, peer_ids, peer_ids, job_ids, st.none() | model_ids, st.sampled_from(RefusalReason), details,
    st.none() | amounts, times,
)  # fmt: skip
job_messages: st.SearchStrategy[Any] = st.one_of(
    st.builds(job.Ask, job_ids, model_ids, tiers, items, sizes, amounts, st.integers(1, 3_600_000), networks),
    st.builds(job.Quote, job_ids, quote_bodies.map(lambda body: body.encode()), signatures),
    st.builds(job.Refusal, job_ids, refusal_bodies.map(lambda body: body.encode()), signatures),
    st.builds(job.Accept, job_ids, raw(32), st.binary(max_size=64), st.binary(max_size=64), st.binary(max_size=64)),
    st.builds(job.Input, job_ids, ciphertexts, st.booleans()),
    st.builds(job.OutputHead, job_ids, st.binary(max_size=64), sizes, times, times),
    st.builds(job.Output, job_ids, ciphertexts, st.booleans()),
    st.builds(job.Receipt, job_ids, st.binary(max_size=64), signatures, maybe(64)),
    st.builds(job.ReceiptAck, job_ids, signatures),
    st.builds(job.Cancel, job_ids),
    st.builds(job.Failure, job_ids, st.sampled_from(job.FailureCode), details),
    st.builds(
        job.Submit, job_ids, quote_bodies.map(lambda body: body.encode()), st.integers(1, 3_600_000), st.binary(max_size=64),
        st.binary(max_size=64), st.binary(max_size=64),
    ),
    st.builds(job.Progress, job_ids, st.sampled_from(job.Phase), st.none() | uint32),
)  # fmt: skip

prices = st.lists(
    st.builds(capacity.TierPrice, tiers, amounts, amounts), max_size=3, unique_by=lambda price: price.tier
)
offers = st.builds(
    capacity.Offer, model_ids, st.text(max_size=64), st.sampled_from(capacity.Unit),
    prices.map(lambda found: tuple(sorted(found, key=lambda price: price.tier))), uint32, times, uint32, uint32, uint32,
    st.text(max_size=64), st.sampled_from(capacity.DeviceClass), uint32, times,
)  # fmt: skip


@st.composite
def announcements(draw: st.DrawFn) -> capacity.Announcement:
    issued = draw(st.integers(0, 2**63 - 2))
    return capacity.Announcement(
        peer_id=draw(peer_ids),
        sequence=draw(times),
        issued_at_ms=issued,
        expires_at_ms=draw(st.integers(issued + 1, 2**63 - 1)),
        addresses=tuple(draw(st.lists(st.text(max_size=30), max_size=4))),
        agent=draw(st.text(max_size=64)),
        settlement_networks=tuple(draw(st.lists(networks, max_size=8))),
        region=draw(st.text(max_size=16)),
        offers=tuple(draw(st.lists(offers, max_size=3, unique_by=lambda offer: offer.model_id))),
    )


book_entries = st.builds(capacity.BookEntry, st.binary(max_size=100), st.sampled_from(capacity.HeardBy), times)
capacity_messages: st.SearchStrategy[Any] = st.one_of(
    st.just(capacity.GetCapacity()),
    st.just(capacity.NoCapacity()),
    st.builds(capacity.GetManifest, model_ids),
    st.builds(capacity.Manifest, st.binary(max_size=100)),
    st.just(capacity.NoManifest()),
    st.builds(capacity.GetBook, st.none() | model_ids, st.none() | peer_ids, st.integers(1, limits.BOOK_ANSWER_MAX)),
    st.builds(capacity.Book, st.lists(book_entries, max_size=4).map(tuple)),
    st.builds(
        lambda body, signature: capacity.SignedAnnouncement(body.encode(), signature), announcements(), signatures
    ),
)
file_records: st.SearchStrategy[Any] = st.one_of(
    st.tuples(times, times).flatmap(
        lambda both: st.builds(market_file.FileHeader, peer_ids, st.just(min(both)), st.just(max(both)))
    ),
    st.builds(market_file.FileEntry, times, st.binary(max_size=100)),
    st.builds(market_file.FileEnd, times),
)
envelope_headers = st.builds(
    seal.EnvelopeHeader, st.sampled_from([0, 1]), raw(16), job_ids, model_ids, peer_ids, amounts, times, sizes, items, raw(32),
)  # fmt: skip
accusations = st.builds(
    evidence.Evidence, peer_ids, times, model_ids, st.sampled_from(evidence.EvidenceKind),
    st.integers(0, evidence.TOLERANCE_MAX), st.binary(max_size=64), signatures, st.binary(max_size=64),
    st.binary(max_size=64), maybe(32), maybe(32), st.binary(max_size=64), st.binary(max_size=64), st.binary(max_size=64),
)  # fmt: skip
signed_accusations = st.builds(
    lambda body, signature: evidence.SignedEvidence(body.encode(), signature), accusations, signatures
)
response_headers = st.builds(seal.ResponseHeader, job_ids, raw(32))
channel_configs = st.builds(voucher.ChannelConfig, raw(32), peer_ids, peer_ids, raw(16), uint32, networks)
channel_opens = st.builds(voucher.ChannelOpen, channel_configs.map(lambda config: config.encode()), amounts)
signed_channel_opens = st.builds(voucher.SignedChannelOpen, st.binary(max_size=64), signatures)
vouchers = st.builds(voucher.Voucher, amounts, signatures)
payments = st.builds(voucher.Payment, raw(32), st.binary(max_size=64), maybe(80))
signed_seal_key_records = st.builds(seal.SignedSealKeyRecord, st.binary(max_size=64), signatures)

# --- hostile -----------------------------------------------------------------------------------------------------------

scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20)
    | st.binary(max_size=20) | raw(16) | raw(32) | raw(38) | signatures
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=8))
    | st.builds(msgpack.Timestamp, st.integers(-(2**63), 2**63 - 1), st.integers(0, 999_999_999))
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.integers(0, 9), inner, max_size=2),
    max_leaves=8,
)
arrays = st.builds(lambda tag, rest: msgpack.packb([tag, *rest]), st.integers(-1, 13), st.lists(values, max_size=17))
"""Well-formed msgpack arrays that begin with a tag and go on with anything."""
hostile = st.binary(max_size=300) | arrays


@st.composite
def mutated(draw: st.DrawFn, frames: st.SearchStrategy[bytes]) -> bytes:
    """A real frame with a byte altered, bytes cut out, or bytes put in."""
    frame = bytearray(draw(frames))
    position = draw(st.integers(0, max(len(frame) - 1, 0)))
    match draw(st.sampled_from(["alter", "cut", "insert"])):
        case "alter" if frame:
            frame[position] ^= draw(st.integers(1, 255))
        case "cut":
            del frame[position : position + draw(st.integers(1, 40))]
        case _:
            frame[position:position] = draw(st.binary(min_size=1, max_size=40))
    return bytes(frame)
