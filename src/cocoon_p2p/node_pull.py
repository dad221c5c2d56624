"""Models that come from peers. Part of `Node`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from cocoon_p2p.assembly import Parts
from cocoon_p2p.drivers.model_pull import ModelPuller, Pull, PullProgress
from cocoon_p2p.errors import CocoonError, one_line
from cocoon_p2p.ids import ModelId, is_model_id
from cocoon_p2p.models.registry import InstalledModel
from cocoon_p2p.models.wanted import Wanted
from cocoon_p2p.net.port import PeerAddresses
from cocoon_p2p.rows import Row

log = logging.getLogger(__name__)


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
        twice a second, and when another phase begins. Cancelled or broken off, what came is kept, and the next pull goes on from there.

        Raises CocoonError: NO_MODEL and AMBIGUOUS (names), NO_SOURCE (nobody who has it can be reached), ConfigError (no room on
        the disk, a manifest that is refused), TransportError (`source` cannot be reached), STOPPED."""
        parts = self._parts
        here = await parts.moves.threads.run(parts.registry.find, model)
        if here is not None:
            return here
        request = await self._request(model, source, name)
        puller = parts.moves.puller
        pull = request.begin(puller)
        try:
            return await puller.wait(pull, progress)
        except trio.Cancelled:
            puller.stop(pull.state.model_id)
            raise

    async def begin_pull(self, model: str, *, source: str | None = None, name: str | None = None) -> Row:
        """As `pull`, without waiting for its end: `pulls` tells how far it is. The node keeps in mind that it was asked, until
        the model is here or `stop_pull`: see `resume_pulls`. Raises CocoonError: NO_MODEL, AMBIGUOUS, ConfigError,
        TransportError (`source`)."""
        request = await self._request(model, source, name)
        puller = self._parts.moves.puller
        if not puller.is_running(request.model_id):
            await puller.remember(Wanted(request.model_id, request.name, source))
        return pull_row(request.begin(puller).state)

    async def resume_pulls(self) -> list[Row]:
        """Go on with what `begin_pull` began before the node's last end and what has neither come nor been stopped."""
        puller = self._parts.moves.puller
        begun = []
        for wanted in await puller.wanted():
            log.info("going on with the pull of model %s (%s)", wanted.name, wanted.model_id)
            begun.append(pull_row(puller.begin(wanted.model_id, name=wanted.name).state))
            if wanted.source is not None:
                self._parts.nursery.start_soon(self._ask_again, wanted, wanted.source)
        return begun

    async def _ask_again(self, wanted: Wanted, source: str) -> None:
        """Whoever was named is asked beside those that are found, if it is there."""
        try:
            holder = PeerAddresses(await self._parts.peering.connect(source), ())
        except CocoonError as error:
            log.info("model %s is to come from %.200s, too: %s", wanted.model_id, source, one_line(error))
            return
        puller = self._parts.moves.puller
        if puller.is_running(wanted.model_id):
            puller.begin(wanted.model_id, name=wanted.name, holders=[holder])

    def pulls(self) -> list[Row]:
        """How far the pulls since the start are, those that are over among them."""
        return [pull_row(state) for state in self._parts.moves.puller.states()]

    def stop_pull(self, model: str) -> bool:
        """By id. What came is kept, and `resume_pulls` does not go on with it. False: it was not under way."""
        return self._parts.moves.puller.stop(ModelId(model))

    async def share_model(self, model: str) -> Row:
        """Let others fetch an installed model (a name, or an id) here, or not any more, as stands on the disk now. {"model_id",
        "name", "shared"}. Raises CocoonError: NO_MODEL."""
        moves = self._parts.moves
        installed = await moves.threads.run(self._parts.registry.get, model)
        await moves.puller.share_changed(installed.model_id)
        shared = moves.shelf.shares and installed.offer.share
        return {"model_id": installed.model_id, "name": installed.name, "shared": shared}

    async def _request(self, model: str, source: str | None, name: str | None) -> _Request:
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
        return _Request(model_id, name or found, manifest, holders)


@dataclass(frozen=True, slots=True)
class _Request:
    """A pull that can begin."""

    model_id: ModelId
    name: str
    manifest: bytes | None
    holders: Sequence[PeerAddresses]

    def begin(self, puller: ModelPuller) -> Pull:
        return puller.begin(self.model_id, name=self.name, manifest=self.manifest, holders=self.holders)


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
