"""invite/1 on this side: what goes into an invite, and what one that somebody typed in says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cocoon_p2p.errors import ConfigError, RemoteProtocolError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import INVITE_ADDRESSES_MAX
from cocoon_p2p.net.addresses import Address, address_from_bytes, address_to_bytes, parse_dialable
from cocoon_p2p.wire.invite import INVITE_PREFIX, Invite, decode_invite, encode_invite

INVITE_HINT = "copy it again, as a whole; `cocoon-node invite` on the other machine shows it"


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invite, read."""

    peer: PeerId
    addresses: tuple[str, ...]
    """Multiaddrs without /p2p/, at least one."""
    expires_at_ms: int = 0
    network_name: str = ""
    fingerprint: str = ""
    """Of the private network; "" for the public one."""
    network_key: bytes | None = field(default=None, repr=False)

    @property
    def entries(self) -> tuple[str, ...]:
        """The addresses as bootstrap lists have them."""
        return tuple(f"{address}/p2p/{self.peer}" for address in self.addresses)


def is_invite(text: str) -> bool:
    """Whether somebody meant this as an invite."""
    return text.strip().lower().startswith(INVITE_PREFIX)


def choose_addresses(addresses: Sequence[str]) -> list[Address]:
    """Those of `addresses` that go into an invite, in the order to try them: public, local, relayed; this machine's own
    only when there is nothing else."""
    known = parse_dialable(addresses)
    away = [address for address in known if not address.is_loopback]
    return sorted(away or known, key=_rank)[:INVITE_ADDRESSES_MAX]


def _rank(address: Address) -> int:
    return 2 if address.relay is not None else 0 if address.is_public else 1


def write_invite(invitation: Invitation) -> str:
    """The text. Raises ConfigError when there is no address to put into it."""
    addresses = choose_addresses(invitation.addresses)
    if not addresses:
        raise ConfigError(
            "nobody could come by an invite: this node accepts no connections",
            code="NOT_LISTENING",
            hint="let it listen: [network] listen in node.toml, or `cocoon-node up --listen /ip4/0.0.0.0/tcp/4601`",
        )
    while True:
        try:
            return encode_invite(
                Invite(
                    invitation.peer,
                    tuple(map(address_to_bytes, addresses)),
                    invitation.expires_at_ms,
                    invitation.network_name,
                    bytes.fromhex(invitation.fingerprint),
                    invitation.network_key or b"",
                )
            )
        except ValueError:  # long host names; the best addresses stay
            addresses.pop()


def read_invite(text: str, *, now_ms: int) -> Invitation:
    """Raises ConfigError: not an invite, with a typo, of a later version, expired, or with no address that we can dial."""
    try:
        invite = decode_invite(text)
    except RemoteProtocolError as error:
        raise ConfigError(f"this is no invite: {error.message}", code="INVITE", hint=_hint(text, error)) from error
    if invite.expires_at_ms and now_ms >= invite.expires_at_ms:
        raise ConfigError(
            "this invite has expired", code="INVITE_EXPIRED", hint="ask for a new one: `cocoon-node invite`"
        )
    addresses = [address for raw in invite.addresses if (address := address_from_bytes(raw)) is not None]
    dialable = parse_dialable(map(str, addresses))
    if not dialable:
        raise ConfigError(
            "this invite names no address that this program can dial",
            code="INVITE",
            hint="a newer version of cocoon-node may know how",
        )
    return Invitation(
        invite.peer_id,
        tuple(map(str, dialable)),
        invite.expires_at_ms,
        invite.network_name,
        invite.network_fingerprint.hex(),
        invite.network_key or None,
    )


def _hint(text: str, error: RemoteProtocolError) -> str:
    if not text.strip():
        return "`cocoon-node invite` on a machine that is in the network shows one"
    if error.code == "UNKNOWN_TAG":
        return "it is of a newer version: update cocoon-node"
    if "/p2p/" in text:
        return "this looks like an address: cocoon-node peers connect ADDRESS, or cocoon-node up --bootstrap ADDRESS"
    return INVITE_HINT


def require_usable(invitation: Invitation, *, own: PeerId | None, fingerprint: str, network_name: str = "") -> None:
    """That a node `own` in the network of `fingerprint` ("": the public one) may use this invite. Raises ConfigError:
    our own; another network's."""
    # SPEC invite/1 §3.3
    if invitation.peer == own:
        raise ConfigError("this is this node's own invite", code="INVITE_OWN", hint="give it to another machine")
    if invitation.fingerprint == fingerprint:
        return
    theirs = f"the private network {invitation.network_name or invitation.fingerprint[:8]}"
    if not fingerprint:
        raise ConfigError(
            f"this invite is for {theirs}, and does not hold its key",
            code="OTHER_NETWORK",
            hint="get the key by a safe way, then: cocoon-node network join KEYFILE, and join again",
        )
    raise ConfigError(
        f"this node is in the private network {network_name or fingerprint[:8]}, and the invite is for "
        f"{theirs if invitation.fingerprint else 'the public network'}",
        code="OTHER_NETWORK",
        hint="leave the private network first: cocoon-node network leave; or give the other node a home of its own: "
        "--home DIR",
    )
