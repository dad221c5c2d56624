"""From the name or id of a model to the model: its id, who offers it, and its manifest, verified against the id."""

from __future__ import annotations

import difflib
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.market import MarketDriver
from cocoon_p2p.errors import CocoonError, RemoteProtocolError, TransportError
from cocoon_p2p.ids import ModelId, is_model_id, model_id_of
from cocoon_p2p.models.manifest import Manifest, ManifestError, parse_manifest
from cocoon_p2p.proto.market import BookOffer

log = logging.getLogger(__name__)

ID_PREFIX = re.compile(r"[0-9a-f]{8,63}")


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    model_id: ModelId
    name: str
    manifest: Manifest
    offers: list[BookOffer]


class Resolver:
    """`local_id` gives the id of a model installed here under a name; `local_manifest` its manifest."""

    def __init__(
        self,
        market: MarketDriver,
        *,
        local_id: Callable[[str], ModelId | None],
        local_manifest: Callable[[ModelId], bytes | None],
    ) -> None:
        self._market = market
        self._local_id = local_id
        self._local_manifest = local_manifest
        self._known: OrderedDict[ModelId, Manifest] = OrderedDict()

    async def resolve(self, model: str) -> ResolvedModel:
        """Raises CocoonError: NO_MODEL when nobody offers it, AMBIGUOUS when one name stands for several models."""
        wanted = self._local_id(model) or self._by_prefix(model) or model
        offers = await self._market.find(wanted)
        if not offers:
            raise self._nobody(model)
        ids = {offer.offer.model_id for offer in offers}
        if len(ids) > 1:
            raise _ambiguous(model, offers)
        model_id = ids.pop()
        name = offers[0].offer.name if is_model_id(model) else model
        return ResolvedModel(model_id, name, await self._manifest(model_id, offers), offers)

    async def manifest(self, model_id: ModelId) -> Manifest:
        """Of a model that is known, installed here, or on offer. Raises CocoonError (NO_MODEL)."""
        known = self._known.get(model_id) or self._parsed(model_id, self._local_manifest(model_id))
        return known or (await self.resolve(model_id)).manifest

    def _by_prefix(self, text: str) -> ModelId | None:
        """The one id on offer that begins with these 8 or more digits, as `offers` shows them."""
        if not ID_PREFIX.fullmatch(text):
            return None
        offers = self._market.offers()
        ids = {each.offer.model_id for each in offers if each.offer.model_id.startswith(text)}
        named = any(each.offer.name == text for each in offers)
        return ids.pop() if len(ids) == 1 and not named else None

    async def _manifest(self, model_id: ModelId, offers: Sequence[BookOffer]) -> Manifest:
        known = self._known.get(model_id)
        if known is not None:
            return known
        manifest = self._parsed(model_id, self._local_manifest(model_id))
        if manifest is None:
            manifest = await self._fetch(model_id, offers)
        self._known[model_id] = manifest
        if len(self._known) > limits.MANIFESTS_CACHED_MAX:
            self._known.popitem(last=False)
        return manifest

    async def _fetch(self, model_id: ModelId, offers: Sequence[BookOffer]) -> Manifest:
        """From whoever answers first: the next one is asked when one has none, or does not answer soon."""
        failures: list[CocoonError] = []
        found: list[Manifest] = []
        async with trio.open_nursery() as nursery:

            async def ask(offer: BookOffer, over: trio.Event) -> None:
                try:
                    raw = await self._market.fetch_manifest(offer.peer, offer.addresses, model_id)
                    manifest = self._parsed(model_id, raw)
                    if manifest is not None:
                        found.append(manifest)
                        nursery.cancel_scope.cancel()
                    else:
                        text = f"peer {offer.peer} gave none, or a wrong one"
                        failures.append(TransportError(text, outcome_known=True))
                except (TransportError, RemoteProtocolError) as error:
                    failures.append(error)
                over.set()

            for offer in self._market.nearest_first(offers)[: limits.MANIFEST_SOURCES_MAX]:
                over = trio.Event()
                nursery.start_soon(ask, offer, over)
                with trio.move_on_after(limits.MANIFEST_STAGGER_S):
                    await over.wait()
        if found:
            return found[0]
        raise TransportError(
            f"the manifest of model {model_id} could not be fetched: {'; '.join(map(str, failures))}",
            outcome_known=True,
            hint=next((error.hint for error in failures if error.hint), None),
        )

    def _parsed(self, model_id: ModelId, raw: bytes | None) -> Manifest | None:
        """None for bytes that are not this model's manifest: whoever sent them, the hash decides."""
        # SPEC capacity/1 §3.6
        if raw is None or model_id_of(raw) != model_id:
            return None
        try:
            return parse_manifest(raw)
        except ManifestError as error:
            log.info("the manifest of model %s cannot be read here: %s", model_id, error)
            return None

    def _nobody(self, model: str) -> CocoonError:
        names = {offer.offer.name for offer in self._market.offers()}
        near = difflib.get_close_matches(model, sorted(names), n=1)
        hint = f"did you mean {near[0]}?" if near else "cocoon-node offers shows what is on offer"
        return CocoonError(f"nobody offers a model called {model}", code="NO_MODEL", retryable=True, hint=hint)


def _ambiguous(name: str, offers: Sequence[BookOffer]) -> CocoonError:
    counts: dict[ModelId, int] = {}
    for offer in offers:
        counts[offer.offer.model_id] = counts.get(offer.offer.model_id, 0) + 1
    listed = ", ".join(f"{model_id} ({n} provider{'s' if n > 1 else ''})" for model_id, n in sorted(counts.items()))
    return CocoonError(
        f"several different models are called {name}: {listed}",
        code="AMBIGUOUS",
        hint="name the one you mean by its id; names are chosen by providers and prove nothing",
    )
