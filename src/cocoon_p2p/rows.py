"""Durable records as the rows that the API, the command line and `Node` give out: dicts that are JSON as they stand.

Money is nanogram in keys that end in _nanogram, times are Unix milliseconds in keys that end in _at_ms.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cocoon_p2p.drivers.invites import Invitation
from cocoon_p2p.drivers.joining import EntryState
from cocoon_p2p.drivers.peering import Membership
from cocoon_p2p.models.manifest import GenerationSpec, Manifest, TensorSpec
from cocoon_p2p.models.registry import InstalledModel
from cocoon_p2p.models.text_part import NO_ACTIVATION, TextFrontEnd
from cocoon_p2p.models.upstream_claim import upstream_to_json
from cocoon_p2p.net.port import ConnectedPeer, Reachability
from cocoon_p2p.policy.reputation import Standing
from cocoon_p2p.settlement.port import Balance, ChannelStatus
from cocoon_p2p.store import Store
from cocoon_p2p.store.jobs import JobRecord
from cocoon_p2p.store.peers import PeerRecord
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


def receipt_rows(store: Store, limit: int) -> list[Row]:
    """The newest receipts, each with the model's name in the job that it is of."""
    return [receipt_row(receipt) | {"model_name": _name_in(store, receipt)} for receipt in store.receipts.newest(limit)]


def _name_in(store: Store, receipt: ReceiptRecord) -> str | None:
    job = store.jobs.get(receipt.job_id, receipt.role, peer=receipt.peer_id)
    return (job.model_name or None) if job is not None else None


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
    what = manifest_row(model.manifest)
    return {
        "model_id": model.model_id,
        "name": model.name,
        "kind": what.pop("kind"),
        "bytes": what.pop("bytes"),
        "price_base": model.offer.price_base,
        "price_per_item": model.offer.price_per_item,
        "serve": model.offer.serve,
        "share": model.offer.share,
        **what,
        "folder": str(model.folder),
    }


def manifest_row(manifest: Manifest) -> Row:
    """What a model takes and gives, whoever has it."""
    return {
        "kind": manifest.kind,
        "bytes": manifest.size,
        "takes_text": manifest.text is not None,
        "inputs": [_tensor_row(spec) for spec in manifest.inputs],
        "outputs": [_tensor_row(spec) for spec in manifest.outputs],
        "labels": None if manifest.text is None else list(manifest.text.labels) or None,
        "text_outputs": None if manifest.text is None else _text_output_rows(manifest.text),
        "state": [list(pair) for pair in manifest.state],
        "generation": None if manifest.generation is None else _generation_row(manifest.generation),
        "upstream": None if manifest.upstream is None else upstream_to_json(manifest.upstream),
        "license": manifest.license or None,
    }


def _text_output_rows(text: TextFrontEnd) -> list[Row]:
    """What a text job gives, one row of it for each text. "made": how, where the worker makes it of an output of the graph."""
    made = None
    if text.pooling is not None:
        made = f"{text.pooling.how} of {text.pooling.output}{', brought to length 1' if text.pooling.normalize else ''}"
    elif text.logits is not None:
        made = text.logits if text.activation == NO_ACTIVATION else f"{text.activation} of {text.logits}"
    return [{"name": name, "made": made} for name in text.outputs]


def _generation_row(spec: GenerationSpec) -> Row:
    return {
        "context": spec.context,
        "vocabulary": spec.vocab,
        "chat": spec.template is not None,
        "in_place": spec.in_place,
    }


def _tensor_row(spec: TensorSpec) -> Row:
    return {"name": spec.name, "dtype": spec.dtype, "shape": None if spec.shape is None else list(spec.shape)}


def peer_row(peer: ConnectedPeer, *, agent: str, offers: int, standing: Standing, now_ms: int) -> Row:
    """One connection. `standing` goes from 100 (no fault known) to 0 (banned)."""
    return {
        "peer_id": peer.peer,
        "addresses": [peer.address] if peer.address else [],
        "listens_on": list(peer.listens_on),
        "transport": peer.transport,
        "relayed": peer.relayed,
        "direction": peer.direction,
        "agent": agent,
        "latency_ms": None if peer.latency_s is None else round(peer.latency_s * 1000, 3),
        "bytes_received": peer.bytes_received,
        "bytes_sent": peer.bytes_sent,
        "offers": offers,
        "standing": round(standing.percent(now_ms)),
        "penalty": round(standing.penalty_at(now_ms), 1),
    }


def entry_row(entry: EntryState) -> Row:
    """One bootstrap peer. `error` is why the last dial failed; `again_in_s` is None while it is being dialled, and when it
    will not be as long as this node is connected to anybody."""
    return {
        "peer_id": entry.peer.peer,
        "addresses": list(entry.peer.addresses),
        "connected": entry.connected,
        "error": entry.failure,
        "tried_ago_s": entry.tried_ago_s,
        "again_in_s": entry.again_in_s,
    }


def ban_row(record: PeerRecord, now_ms: int) -> Row:
    """One peer that is refused."""
    return {
        "peer_id": record.peer_id,
        "addresses": list(record.addresses),
        "banned_until_ms": record.banned_until_ms,
        "left_s": max(0, record.banned_until_ms - now_ms) / 1000,
    }


def reachability_row(found: Reachability) -> Row:
    """Whether others can dial this node, and why."""
    return {
        "state": found.state,
        "reason": found.reason,
        "advice": found.advice or None,
        "addresses": list(found.addresses),
        "observed": list(found.observed),
        "mapped": list(found.mapped),
        "relays": list(found.relays),
    }


def network_row(membership: Membership) -> Row:
    """The network that a node is in. Never its key."""
    return {
        "private": bool(membership.fingerprint),
        "name": membership.name or None,
        "fingerprint": membership.fingerprint or None,
    }


def invite_row(text: str, invitation: Invitation) -> Row:
    """An invite that this node wrote."""
    return {
        "invite": text,
        "peer_id": invitation.peer,
        "addresses": list(invitation.addresses),
        "expires_at_ms": invitation.expires_at_ms or None,
        "network_name": invitation.network_name or None,
        "network_fingerprint": invitation.fingerprint or None,
        "has_network_key": invitation.network_key is not None,
    }


def joined_row(invitation: Invitation, file: Path | None) -> Row:
    """What became of an invite: `written_to` is the node.toml that was extended, None when it had the addresses before."""
    return {
        "peer_id": invitation.peer,
        "addresses": list(invitation.addresses),
        "network_name": invitation.network_name or None,
        "network_fingerprint": invitation.fingerprint or None,
        "written_to": None if file is None else str(file),
    }
