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
from cocoon_p2p.drivers.experience import ExperienceKeeper
from cocoon_p2p.drivers.market import MarketDriver
from cocoon_p2p.errors import CocoonError, RemoteProtocolError, StoreError, TransportError, one_line
from cocoon_p2p.ids import ModelId, PeerId, is_model_id, model_id_of
from cocoon_p2p.models.manifest import Manifest, ManifestError, parse_manifest
from cocoon_p2p.policy.subnets import subnet_of
from cocoon_p2p.proto.market import BookOffer
from cocoon_p2p.store import ModelNames

log = logging.getLogger(__name__)

ID_PREFIX = re.compile(r"[0-9a-f]{8,63}")


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    model_id: ModelId
    name: str
    manifest: Manifest
    offers: list[BookOffer]


class Resolver:
    """`local_id` gives the id of a model installed here under a name; `local_manifest` its manifest; `names` what a name stood
    for when it last did a job."""

    def __init__(
        self,
        market: MarketDriver,
        *,
        local_id: Callable[[str], ModelId | None],
        local_manifest: Callable[[ModelId], bytes | None],
        names: ModelNames,
        experience: ExperienceKeeper,
    ) -> None:
        self._market = market
        self._local_id = local_id
        self._local_manifest = local_manifest
        self._names = names
        self._experience = experience
        self._noted: dict[str, ModelId] = {}
        """What stands in `names`, of what was used since the start."""
        self._known: OrderedDict[ModelId, Manifest] = OrderedDict()

    async def resolve(self, model: str) -> ResolvedModel:
        """Of a name that stands for several models, the one that it stood for when it last did a job. Raises CocoonError:
        NO_MODEL when nobody offers it, AMBIGUOUS when a name stands for several models none of which was used by it."""
        for _ in range(limits.JOB_ATTEMPTS_MAX - 1):
            try:
                return await self._resolve(model)
            except TransportError as error:  # those that were not there are forgotten
                log.info("%s; others are looked for", one_line(error))
        return await self._resolve(model)

    async def _resolve(self, model: str) -> ResolvedModel:
        """Raises TransportError, too, where none of those that offer it gave its manifest."""
        wanted = self._local_id(model) or self._by_prefix(model) or model
        offers = await self._market.find(wanted)
        if not offers:
            raise self._nobody(model)
        ids = {offer.offer.model_id for offer in offers}
        if len(ids) > 1:
            offers = self._as_before(model, offers)
        model_id = offers[0].offer.model_id
        name = offers[0].offer.name if is_model_id(model) else model
        return ResolvedModel(model_id, name, await self._manifest(model_id, offers), offers)

    def used(self, model: str, model_id: ModelId) -> None:
        """A job of this model, which was asked for so, was done. No job fails for what cannot be written."""
        if model_id.startswith(model) or self._noted.get(model) == model_id:
            return  # an id, or the beginning of one, stands for itself
        try:
            if self._names.get(model) != model_id:
                self._names.set(model, model_id)
        except StoreError as error:
            log.warning("which model %s stands for could not be written: %s", model, error)
            return
        if len(self._noted) >= limits.NAMES_REMEMBERED_MAX:
            self._noted.clear()
        self._noted[model] = model_id

    def _as_before(self, name: str, offers: Sequence[BookOffer]) -> list[BookOffer]:
        """Anybody can announce anything by a known name, and must not take it away by that. Raises CocoonError (AMBIGUOUS)."""
        before = self._noted.get(name) or self._names.get(name)
        same = [each for each in offers if each.offer.model_id == before]
        if not same:
            raise self._ambiguous(name, offers)
        others = len({each.offer.model_id for each in offers}) - 1
        log.info(
            "%s is taken for model %s, which it was before; others (%d) are called so now, too", name, before, others
        )
        return same

    async def manifest(self, model_id: ModelId) -> Manifest:
        """Of a model that is known, installed here, or on offer. Raises CocoonError (NO_MODEL)."""
        known = self._known.get(model_id) or self._parsed(model_id, self._local_manifest(model_id))
        return known or (await self.resolve(model_id)).manifest

    def known(self, model_id: ModelId) -> Manifest | None:
        """Of a model that was resolved lately; nobody is asked."""
        return self._known.get(model_id)

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
                    if isinstance(error, TransportError):
                        self._market.forget(offer.peer)
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
            log.info("the manifest of model %s cannot be read here: %s", model_id, one_line(error))
            return None

    def _nobody(self, model: str) -> CocoonError:
        names = {offer.offer.name for offer in self._market.offers()}
        near = difflib.get_close_matches(model, sorted(names), n=1)
        hint = f"did you mean {near[0]}?" if near else "cocoon-node offers shows what is on offer"
        return CocoonError(f"nobody offers a model called {model}", code="NO_MODEL", retryable=True, hint=hint)

    def _ambiguous(self, name: str, offers: Sequence[BookOffer]) -> CocoonError:
        """Those first that did jobs for us, then those that most owners offer."""
        by_id: dict[ModelId, list[BookOffer]] = {}
        for offer in offers:
            by_id.setdefault(offer.offer.model_id, []).append(offer)

        def rank(model_id: ModelId) -> tuple[float, int, ModelId]:
            found = by_id[model_id]
            owners = {subnet_of(each.addresses) for each in found}
            return -max(self._worth(each.peer, model_id) for each in found), -len(owners), model_id

        ids = sorted(by_id, key=rank)
        listed = [f"{each} ({_providers(len(by_id[each]))})" for each in ids[: limits.AMBIGUOUS_SHOWN_MAX]]
        if len(ids) > len(listed):
            listed.append(f"and {len(ids) - len(listed)} more")
        return CocoonError(
            f"several different models are called {name}: {', '.join(listed)}",
            code="AMBIGUOUS",
            hint="name the one you mean by its id; names are chosen by providers and prove nothing",
        )

    def _worth(self, peer: PeerId, model_id: ModelId) -> float:
        """Its reliability, where it did this very model for us; else a stranger's half."""
        did_it = self._experience.of(peer, model_id).item_us is not None
        return self._experience.reliability(peer) if did_it else 0.5


def _providers(count: int) -> str:
    return f"{count} provider{'s' if count > 1 else ''}"
