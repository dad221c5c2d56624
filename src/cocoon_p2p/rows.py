"""Durable records as the rows that the API, the command line and `Node` give out: dicts that are JSON as they stand.

Money is nanogram in keys that end in _nanogram, times are Unix milliseconds in keys that end in _at_ms.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cocoon_p2p.models.manifest import TensorSpec
from cocoon_p2p.models.registry import InstalledModel
from cocoon_p2p.settlement.port import Balance, ChannelStatus
from cocoon_p2p.store.jobs import JobRecord
from cocoon_p2p.store.receipts import ReceiptRecord
from cocoon_p2p.units import LOCAL_NETWORK_ID

Row = dict[str, Any]


def job_row(job: JobRecord) -> Row:
    """One job, whichever role this node had in it."""
    return {
        "job_id": job.job_id.hex(),
        "role": job.role,
        "model_id": job.model_id,
        "model_name": job.model_name,
        "peer_id": job.peer_id,
        "tier": job.tier.name.lower(),
        "state": job.state,
        "price_nanogram": job.price,
        "items": job.items,
        "created_at_ms": job.created_at_ms,
        "finished_at_ms": job.finished_at_ms,
        "error": job.error or None,
    }


def receipt_row(receipt: ReceiptRecord) -> Row:
    """One receipt with the bytes that were signed, so that anybody can check the signatures (job/1)."""
    return {
        "job_id": receipt.job_id.hex(),
        "role": receipt.role,
        "peer_id": receipt.peer_id,
        "model_id": receipt.model_id,
        "price_nanogram": receipt.price,
        "items": receipt.items,
        "finished_at_ms": receipt.finished_at_ms,
        "body": receipt.body.hex(),
        "provider_signature": receipt.provider_signature.hex(),
        "client_signature": receipt.client_signature.hex() or None,
    }


def wallet_row(balance: Balance, channels: Iterable[ChannelStatus]) -> Row:
    """What this node has, what is locked in channels, and each channel."""
    return {
        "network_id": balance.network_id,
        "test_money": balance.network_id == LOCAL_NETWORK_ID,
        "available_nanogram": balance.available,
        "deposited_nanogram": balance.deposited,
        "spent_nanogram": balance.spent,
        "earned_nanogram": balance.earned,
        "claimed_nanogram": balance.claimed,
        "channels": [channel_row(channel) for channel in channels],
    }


def channel_row(channel: ChannelStatus) -> Row:
    """One payment channel."""
    return {
        "channel": channel.channel.hex(),
        "role": channel.role,
        "peer_id": channel.other,
        "deposit_nanogram": channel.deposit,
        "cumulative_nanogram": channel.cumulative,
        "earned_nanogram": channel.earned,
        "reserved_nanogram": channel.reserved,
        "claimed_nanogram": channel.claimed,
        "closed": channel.closed,
    }


def model_row(model: InstalledModel) -> Row:
    """One installed model: what it is (the manifest's part) and what its operator decided."""
    manifest = model.manifest
    return {
        "model_id": model.model_id,
        "name": model.name,
        "kind": manifest.kind,
        "bytes": manifest.size,
        "price_base": model.offer.price_base,
        "price_per_item": model.offer.price_per_item,
        "serve": model.offer.serve,
        "takes_text": manifest.text is not None,
        "inputs": [_tensor_row(spec) for spec in manifest.inputs],
        "outputs": [_tensor_row(spec) for spec in manifest.outputs],
        "license": manifest.license or None,
        "folder": str(model.folder),
    }


def _tensor_row(spec: TensorSpec) -> Row:
    return {"name": spec.name, "dtype": spec.dtype, "shape": None if spec.shape is None else list(spec.shape)}
