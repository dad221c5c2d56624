"""The operations of the vectors, carried out by cocoon_p2p: what an implementation in another language writes, too.

Each takes the scenario's input, its hexadecimal read, and gives the JSON value that is expected, or raises."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import IntEnum
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from network_operations import NETWORK_OPERATIONS
from vector_blob import OPERATIONS as BLOB_OPERATIONS
from vector_kad_gossip import OPERATIONS as KAD_AND_GOSSIP_OPERATIONS
from vector_manifest import OPERATIONS as MANIFEST_OPERATIONS

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId, peer_id_from_public_key, peer_id_to_bytes, public_key_of
from cocoon_p2p.net.bulk import messages
from cocoon_p2p.net.bulk.sockets import nonce_at
from cocoon_p2p.net.external_frames import decode_external_header
from cocoon_p2p.proto.evidence import check_evidence
from cocoon_p2p.sealing.envelope import (
    ChunkOpener,
    ChunkSealer,
    RequestSecrets,
    SealedRequest,
    SealKey,
    ciphertext_bytes,
)
from cocoon_p2p.sealing.frames import FrameOpener, FrameSealer
from cocoon_p2p.sealing.signing import IdentityKey, verify_bytes, verify_signature
from cocoon_p2p.tensors import PayloadError, decode_payload
from cocoon_p2p.wire import blob, capacity, evidence, invite, job, market_file, seal, voucher

Given = dict[str, Any]
DOMAINS = {
    "announcement": capacity.CAPACITY_DOMAIN,
    "seal_key_record": seal.SEAL_KEY_DOMAIN,
    "quote": job.QUOTE_DOMAIN,
    "receipt": job.RECEIPT_DOMAIN,
    "refusal": job.REFUSAL_DOMAIN,
    "evidence": evidence.EVIDENCE_DOMAIN,
    "channel_open": voucher.CHANNEL_OPEN_DOMAIN,
}
MESSAGES: dict[str, Callable[[bytes], Any]] = {
    "job.decode": job.decode_message,
    "capacity.decode": capacity.decode_message,
    "blob.decode": blob.decode_message,
    "market_file.decode": market_file.decode_file_record,
}
RECORDS: dict[str, Callable[[bytes], Any]] = {
    "quote_body.decode": job.decode_quote_body,
    "receipt_body.decode": job.decode_receipt_body,
    "refusal_body.decode": job.decode_refusal_body,
    "evidence.decode": evidence.decode_evidence,
    "signed_evidence.decode": evidence.SignedEvidence.decode,
    "announcement.decode": capacity.decode_announcement,
    "seal_key_record.decode": seal.decode_seal_key_record,
    "signed_seal_key_record.decode": seal.decode_signed_seal_key_record,
    "envelope_header.decode": seal.decode_envelope_header,
    "response_header.decode": seal.decode_response_header,
    "channel_config.decode": voucher.decode_channel_config,
    "channel_open.decode": voucher.decode_channel_open,
    "signed_channel_open.decode": voucher.decode_signed_channel_open,
    "payment.decode": voucher.decode_payment,
    "voucher.decode": voucher.decode_voucher,
    "invite_record.decode": invite.decode_invite_record,
}


def run(operation: str, given: Given) -> Any:
    """The result as JSON, or {"error": code}."""
    try:
        if operation in MESSAGES or operation in RECORDS:
            return decode(operation, bytes.fromhex(given["frame"]))
        return OPERATIONS[operation](given)
    except RemoteProtocolError as error:
        return {"error": error.code}


def decode(operation: str, frame: bytes) -> Any:
    decoded = (MESSAGES.get(operation) or RECORDS[operation])(frame)
    result = {"fields": plain(decoded), "exact": decoded.encode() == frame}
    if operation in MESSAGES:
        result["message"] = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(decoded).__name__).upper()
    return result


def plain(value: Any) -> Any:
    """A decoded value as the vectors write it."""
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.init}
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, tuple | list):
        return [plain(entry) for entry in value]
    return int(value) if isinstance(value, IntEnum) else value


def fails(code: str) -> RemoteProtocolError:
    return RemoteProtocolError("as the scenario says", code=code)


def hexed(given: Given, *names: str) -> list[bytes]:
    return [bytes.fromhex(given[name]) for name in names]


def identity_peer_id(given: Given) -> Any:
    peer_id = peer_id_from_public_key(bytes.fromhex(given["public_key"]))
    return {"text": peer_id, "bytes": peer_id_to_bytes(peer_id).hex()}


def identity_public_key(given: Given) -> Any:
    try:
        return public_key_of(PeerId(given["peer_id"])).hex()
    except ValueError as error:
        raise fails("MALFORMED") from error


def identity_sign(given: Given) -> Any:
    seed, body = hexed(given, "seed", "body")
    return IdentityKey.from_seed(seed).sign(given["domain"].encode(), body).hex()


def identity_verify(given: Given) -> Any:
    body, signature = hexed(given, "body", "signature")
    if not verify_signature(PeerId(given["peer_id"]), given["domain"].encode(), body, signature):
        raise fails("SIGNATURE")
    return True


def signed_verify(given: Given) -> Any:
    body, signature = hexed(given, "body", "signature")
    if not verify_signature(PeerId(given["signer"]), DOMAINS[given["record"]], body, signature):
        raise fails("SIGNATURE")
    return True


def announcement_current(given: Given) -> Any:
    capacity.decode_announcement(bytes.fromhex(given["body"])).require_current(given["now_ms"])
    return True


def seal_key_record_current(given: Given) -> Any:
    record = seal.decode_seal_key_record(bytes.fromhex(given["body"]))
    record.require_current(PeerId(given["provider"]), given["now_ms"])
    return True


def capacity_keys(given: Given) -> Any:
    return {
        "key": capacity.capacity_key(PeerId(given["peer_id"])),
        "model_content_id": capacity.model_content_id(given["model_id"]).hex(),
        "name_content_id": capacity.name_content_id(given["name"]).hex(),
        "any_model_content_id": capacity.ANY_MODEL_CONTENT_ID.hex(),
    }


def seal_key(given: Given) -> Any:
    key = SealKey(bytes.fromhex(given["seed"]))
    assert seal.seal_key_id(key.public_key) == key.key_id
    return {"public_key_sha256": hashlib.sha256(key.public_key).hexdigest(), "key_id": key.key_id.hex()}


def seal_commitment(given: Given) -> Any:
    return RequestSecrets(*hexed(given, "payload_secret", "response_secret")).commitment.hex()


def evidence_check(given: Given) -> Any:
    receipt = check_evidence(evidence.SignedEvidence.decode(bytes.fromhex(given["frame"])))
    return {"provider": receipt.provider, "job_id": receipt.job_id.hex()}


def open_pieces(opener: ChunkOpener, pieces: list[tuple[bytes, bool]], payload_bytes: int) -> bytes:
    """As a driver reads a payload: into a buffer of the announced length, complete at the final piece."""
    out = memoryview(bytearray(payload_bytes))
    written = 0
    for piece, final in pieces:
        written += opener.open_into(piece, out[written:], final)
    if not opener.finished or written != payload_bytes:
        raise fails("ENVELOPE")
    return bytes(out)


def read_pieces(given: Given) -> list[tuple[bytes, bool]]:
    return [(bytes.fromhex(piece), final) for piece, final in given["pieces"]]


def seal_open(given: Given) -> Any:
    seed, header, box = hexed(given, "seed", "header", "box")
    opened = SealKey(seed).open_request(header, box)
    if opened.commitment != seal.decode_envelope_header(header).commitment:
        raise fails("ENVELOPE")
    plaintext = open_pieces(opened.opener, read_pieces(given), given["payload_bytes"])
    return {"extension": opened.extension.hex(), "plaintext": plaintext.hex()}


def seal_open_response(given: Given) -> Any:
    secret, header, response_header = hexed(given, "response_secret", "header", "response_header")
    secrets = RequestSecrets(bytes(32), secret)
    request = SealedRequest(b"", ChunkSealer(None), hashlib.sha256(header).digest(), secrets)
    opener = request.response_opener(response_header)
    return {"plaintext": open_pieces(opener, read_pieces(given), given["payload_bytes"]).hex()}


def sealed_pattern(given: Given) -> bytes:
    size = given["payload_bytes"]
    payload = (bytes(range(251)) * (size // 251 + 1))[:size]
    sealer = ChunkSealer(AESGCM(bytes.fromhex(given["key"])))
    frame = 16 * 65536
    starts = range(0, max(size, 1), frame)
    return b"".join(bytes(sealer.seal(payload[i : i + frame], i + frame >= size)) for i in starts)


def seal_chunks(given: Given) -> Any:
    sealed = sealed_pattern(given)
    assert len(sealed) == ciphertext_bytes(given["payload_bytes"])
    return {"ciphertext_bytes": len(sealed), "ciphertext_sha256": hashlib.sha256(sealed).hexdigest()}


def seal_open_chunks(given: Given) -> Any:
    sealed = bytearray(sealed_pattern(given))
    assert hashlib.sha256(sealed).hexdigest() == given["ciphertext_sha256"]
    if given["flip"]:
        chunk, position = given["flip"]
        sealed[chunk * 65552 + position] ^= 1
    honest = [bytes(sealed[i : i + 65552]) for i in range(0, len(sealed), 65552)]
    pieces = [(b"".join(honest[i] for i in piece["chunks"]), piece["final"]) for piece in given["pieces"]]
    pieces += [(bytes.fromhex(piece), final) for piece, final in given["append"]]
    opener = ChunkOpener(AESGCM(bytes.fromhex(given["key"])))
    plaintext = open_pieces(opener, pieces, given["announced_bytes"])
    return {"plaintext_sha256": hashlib.sha256(plaintext).hexdigest()}


def seal_frames(given: Given) -> Any:
    pieces = [bytes.fromhex(piece) for piece in given["pieces"]]
    sealer = FrameSealer(AESGCM(bytes.fromhex(given["key"])) if given["key"] else None)
    return [sealer.seal(piece, i == len(pieces) - 1).hex() for i, piece in enumerate(pieces)]


def seal_open_frames(given: Given) -> Any:
    opener = FrameOpener(AESGCM(bytes.fromhex(given["key"])) if given["key"] else None)
    pieces = [opener.open(bytes.fromhex(frame), final).hex() for frame, final in given["frames"]]
    if not opener.finished:
        raise fails("ENVELOPE")
    return pieces


def voucher_hash(given: Given) -> Any:
    channel = bytes.fromhex(given["channel"])
    return voucher.voucher_cell_hash(given["network_id"], channel, given["cumulative"]).hex()


def voucher_verify(given: Given) -> Any:
    payer_key, channel, raw = hexed(given, "payer_key", "channel", "voucher")
    decoded = voucher.decode_voucher(raw)
    message = voucher.voucher_cell_hash(given["network_id"], channel, decoded.cumulative)
    if not verify_bytes(payer_key, message, decoded.signature):
        raise fails("VOUCHER_SIGNATURE")
    return True


def channel_address(given: Given) -> Any:
    return voucher.local_channel_address(bytes.fromhex(given["config"])).hex()


def payload_decode(given: Given) -> Any:
    try:
        return plain(decode_payload(bytes.fromhex(given["payload"])))
    except PayloadError as error:
        raise fails("PAYLOAD") from error


def invite_decode(given: Given) -> Any:
    return plain(invite.decode_invite(given["text"]))


def data_request(given: Given) -> Any:
    invitation = messages.decode_request(bytes.fromhex(given["frame"]))
    return None if invitation is None else plain(invitation)


def data_greet(given: Given) -> Any:
    invitation = messages.decode_invitation(bytes.fromhex(given["invitation"]))
    return {"greeting": invitation.greeting().hex(), "answer": invitation.proof().hex()}


def data_greeting(given: Given) -> Any:
    return messages.decode_greeting(bytes.fromhex(given["frame"])).hex()


def data_encrypt(given: Given) -> Any:
    cipher = AESGCM(bytes.fromhex(given["key"]))
    return cipher.encrypt(nonce_at(given["offset"]), bytes.fromhex(given["body"]), None).hex()


def data_frame(given: Given) -> Any:
    data = bytes.fromhex(given["header"])
    header = decode_external_header(data)
    assert header.encode() == data
    tail_bytes = header.inline_bytes - header.head_bytes
    fields_read = {name: plain(value) for name, value in header._asdict().items()}
    return fields_read | {"body_bytes": header.body_bytes, "tail_bytes": tail_bytes}


OPERATIONS: dict[str, Callable[[Given], Any]] = {
    **NETWORK_OPERATIONS,
    **KAD_AND_GOSSIP_OPERATIONS,
    **BLOB_OPERATIONS,
    **MANIFEST_OPERATIONS,
    "identity.peer_id": identity_peer_id,
    "identity.public_key": identity_public_key,
    "identity.sign": identity_sign,
    "identity.verify": identity_verify,
    "signed.verify": signed_verify,
    "announcement.current": announcement_current,
    "seal_key_record.current": seal_key_record_current,
    "capacity.keys": capacity_keys,
    "seal.key": seal_key,
    "seal.commitment": seal_commitment,
    "evidence.check": evidence_check,
    "seal.open": seal_open,
    "seal.open_response": seal_open_response,
    "seal.chunks": seal_chunks,
    "seal.frames": seal_frames,
    "seal.open_frames": seal_open_frames,
    "seal.open_chunks": seal_open_chunks,
    "voucher.hash": voucher_hash,
    "voucher.verify": voucher_verify,
    "channel.address": channel_address,
    "invite.decode": invite_decode,
    "data.request": data_request,
    "data.greet": data_greet,
    "data.greeting": data_greeting,
    "data.encrypt": data_encrypt,
    "data.frame": data_frame,
    "payload.decode": payload_decode,
}
