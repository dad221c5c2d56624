"""Models that come from peers. Part of `Node`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from cocoon_p2p.assembly import Parts
from cocoon_p2p.drivers.model_pull import Pull, PullProgress
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.ids import ModelId, is_model_id
from cocoon_p2p.models.registry import InstalledModel
from cocoon_p2p.net.port import PeerAddresses
from cocoon_p2p.rows import Row


class NodePull:
    """The part of `Node` that fetches models from others."""

    _parts: Parts

    async def pull(
        self,
        model: str,
        *,
        source: str | None = None,
        name: str | None = None,
        progress: Callable[[PullProgress], None] = lambda state: None,
    ) -> InstalledModel:
        """Fetch a model from whoever has it, each piece verified, and install it; one that is here already is returned as it is. A
        node that serves offers it at once. `model`: an id, or what it is called on the market; `source`: a peer id or a multiaddr
        of somebody who has it, asked beside those that are found; `name`: what it shall be called here; `progress` is called
        twice a second. Cancelled or broken off, what came is kept, and the next pull goes on from there.

        Raises CocoonError: NO_MODEL and AMBIGUOUS (names), NO_SOURCE (nobody who has it can be reached), ConfigError (no room on
        the disk, a manifest that is refused), TransportError (`source` cannot be reached), STOPPED."""
        parts = self._parts
        here = await parts.moves.threads.run(parts.registry.find, model)
        if here is not None:
            return here
        pull = await self._begin(model, source, name)
        puller = parts.moves.puller
        try:
            return await puller.wait(pull, progress)
        except trio.Cancelled:
            puller.stop(pull.state.model_id)
            raise

    async def begin_pull(self, model: str, *, source: str | None = None, name: str | None = None) -> Row:
        """As `pull`, without waiting for its end: `pulls` tells how far it is. Raises CocoonError: NO_MODEL, AMBIGUOUS,
        TransportError (`source`)."""
        return pull_row((await self._begin(model, source, name)).state)

    def pulls(self) -> list[Row]:
        """How far the pulls since the start are, those that are over among them."""
        return [pull_row(state) for state in self._parts.moves.puller.states()]

    def stop_pull(self, model: str) -> bool:
        """By id. What came is kept. False: it was not under way."""
        return self._parts.moves.puller.stop(ModelId(model))

    async def _begin(self, model: str, source: str | None, name: str | None) -> Pull:
        parts = self._parts
        holders: Sequence[PeerAddresses] = ()
        if source is not None:
            holders = (PeerAddresses(await parts.peering.connect(source), ()),)
        manifest: bytes | None = None
        if is_model_id(model):
            model_id = ModelId(model)
            offers = parts.market.offers(model_id)
            found = offers[0].offer.name if offers else model[:12]
        else:
            resolved = await parts.moves.resolver.resolve(model)
            model_id, manifest, found = resolved.model_id, resolved.manifest.encode(), resolved.name
        return parts.moves.puller.begin(model_id, name=name or found, manifest=manifest, holders=holders)


def pull_row(state: PullProgress) -> Row:
    """How far a pull is. "phase": searching, checking (what was there before), fetching, installing, done, failed."""
    error = CocoonError(state.error, code=state.code, hint=state.hint or None) if state.error else None
    return {
        "model_id": state.model_id,
        "name": state.name,
        "phase": state.phase,
        "done_bytes": state.done_bytes,
        "total_bytes": state.total_bytes,
        "bytes_s": round(state.bytes_s),
        "left_s": None if state.left_s is None else round(state.left_s, 1),
        "holders": state.holders,
        "local_bytes": state.local_bytes,
        "outside_bytes": state.outside_bytes,
        "note": state.note or None,
        "error": None if error is None else {"code": error.code, "message": error.message, "hint": error.hint},
    }
