"""The models that this machine has: added by the operator, from files, each under its content's id."""

from __future__ import annotations

import difflib
import errno
import json
import os
import posixpath
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.ids import ModelId, is_model_id
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX, NAME_CHARS_MAX
from cocoon_p2p.models.choice import Choice, choose
from cocoon_p2p.models.gathering import Gathering, Silent, Wishes
from cocoon_p2p.models.hub import HubPlace, open_hub
from cocoon_p2p.models.inspection import OnnxFacts, inspect_in_subprocess
from cocoon_p2p.models.layout import (
    INCOMING_PREFIX,
    ModelDamaged,
    flush_folder,
    model_folder,
    models_folder,
    read_manifest,
    verify_files,
    write_atomically,
    write_pieces,
)
from cocoon_p2p.models.manifest import MANIFEST_NAME, OFFER_NAME, Manifest
from cocoon_p2p.models.source import HUB_PREFIX, FolderSource, Progress, Source

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_CHARS_MAX - 1}}}")
_ABANDONED_S = 24 * 3600.0
_ID_PREFIX_CHARS_MIN = 8
OPERATOR, PEER = "operator", "peer"
_NO_WISHES, _HUB, _SILENT = Wishes(), HubPlace(), Silent()


@dataclass(frozen=True, slots=True)
class Offer:
    """What the operator decided about a model. Prices in nanogram; None: the configuration's."""

    name: str
    price_base: int | None = None
    price_per_item: int | None = None
    serve: bool = True
    origin: str = OPERATOR
    """Who chose it: the operator (`models add`), or nobody here (PEER: it came from peers). See models/allow_list.py."""
    share: bool = True
    """Whether others may fetch its files here, where [models] share lets them fetch any."""


@dataclass(frozen=True, slots=True)
class InstalledModel:
    model_id: ModelId
    manifest: Manifest
    offer: Offer
    folder: Path

    @property
    def name(self) -> str:
        return self.offer.name


class ModelRegistry:
    """All methods read or write the disk and may block: from async code call them in a thread."""

    def __init__(self, home: Path, *, inspect: Callable[[Path], OnnxFacts] = inspect_in_subprocess) -> None:
        self._home = home
        self._inspect = inspect

    def add(
        self,
        path: Path | str,
        *,
        name: str | None = None,
        price_base: int | None = None,
        price_per_item: int | None = None,
        wishes: Wishes = _NO_WISHES,
        file: str | None = None,
        hub: HubPlace = _HUB,
        progress: Progress = _SILENT,
    ) -> InstalledModel:
        """Copy a model into the home: an .onnx file; a folder with one, its external data and perhaps a tokenizer.json, which
        makes it take text; a folder of onnxruntime-genai; or a repository hf:owner/repo[@revision]. `file` chooses among several
        of a folder's. Files that are here already keep their name and prices where no new ones are given. Raises ConfigError."""
        source, choice = _open(path, file, hub, progress)
        wanted = Offer(_name_from(source, choice) if name is None else name, price_base, price_per_item)
        _check_offer(wanted)
        models = models_folder(self._home)
        models.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(models)
        incoming = Path(tempfile.mkdtemp(prefix=INCOMING_PREFIX, dir=models))
        try:
            gathering = Gathering(source, choice, incoming, self._inspect, progress)
            manifest = gathering.gather(wishes, with_text=not os.path.isfile(path))
            write_pieces(incoming, manifest, gathering.pieces)
            present = self._offer_of(manifest.model_id)
            offer = wanted if present is None else _changed(present, name, price_base, price_per_item)
            return self._install(manifest, offer, incoming)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ConfigError(f"the disk of {models} is full", hint="make room: cocoon-node models list") from error
            raise
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def list(self) -> tuple[InstalledModel, ...]:
        """All models in order of their names; those whose folder is damaged are left out (`problems` has them)."""
        return tuple(sorted((m for m in self._scan() if isinstance(m, InstalledModel)), key=lambda m: m.name))

    def problems(self) -> tuple[str, ...]:
        """One line for each folder that holds no readable model."""
        return tuple(model.message for model in self._scan() if isinstance(model, ModelDamaged))

    def get(self, name_or_id: str) -> InstalledModel:
        """By name, id, or the first 8 or more digits of the id. Raises CocoonError(code="NO_MODEL") with what is near."""
        models = self.list()
        found = _find(name_or_id, models)
        if found is None:
            raise _not_found(name_or_id, models)
        return found

    def find(self, name_or_id: str) -> InstalledModel | None:
        """The same; None when there is none."""
        return _find(name_or_id, self.list())

    def set_offer(self, model_id: ModelId, offer: Offer) -> InstalledModel:
        """Change name, prices, or whether the model is served or shared. Raises ConfigError, CocoonError(code="NO_MODEL")."""
        model = self.get(model_id)
        _check_offer(offer)
        self._check_free(offer.name, model_id)
        write_atomically(model.folder / OFFER_NAME, _encode_offer(offer))
        return replace(model, offer=offer)

    def remove(self, model_id: ModelId) -> None:
        """Raises CocoonError(code="NO_MODEL"). A running worker keeps its open files until it is unloaded."""
        folder = model_folder(self._home, model_id)
        if not is_model_id(model_id) or not folder.is_dir():
            raise _not_found(model_id, self.list())
        # Renamed first, so that nobody ever sees half a model.
        doomed = Path(tempfile.mkdtemp(prefix=INCOMING_PREFIX, dir=folder.parent))
        folder.rename(doomed / "model")
        shutil.rmtree(doomed, ignore_errors=True)

    def verify(self, model_id: ModelId, *, progress: Callable[[int], None] | None = None) -> None:
        """Read every byte of the model's files; `progress` is told of each read. Raises ModelDamaged, CocoonError(code="NO_MODEL")."""
        folder = model_folder(self._home, model_id)
        if not is_model_id(model_id) or not folder.is_dir():
            raise _not_found(model_id, self.list())
        verify_files(folder, read_manifest(folder, model_id), progress=progress)

    def _scan(self) -> Iterator[InstalledModel | ModelDamaged]:
        folder = models_folder(self._home)
        for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
            if is_model_id(entry.name) and entry.is_dir():
                try:
                    model_id = ModelId(entry.name)
                    manifest = read_manifest(entry, model_id)
                    yield InstalledModel(model_id, manifest, _read_offer(entry / OFFER_NAME), entry)
                except ModelDamaged as error:
                    yield error

    def install_fetched(self, manifest: Manifest, offer: Offer, folder: Path) -> InstalledModel:
        """Make a model of a folder among the models whose files were verified piece by piece as they came (models.partial). What
        was decided about these files before stays. Raises ConfigError: another model has the offer's name."""
        return self._install(manifest, self._offer_of(manifest.model_id) or offer, folder)

    def _install(self, manifest: Manifest, offer: Offer, incoming: Path) -> InstalledModel:
        model_id = manifest.model_id
        self._check_free(offer.name, model_id)
        folder = model_folder(self._home, model_id)
        write_atomically(incoming / MANIFEST_NAME, manifest.encode())
        write_atomically(incoming / OFFER_NAME, _encode_offer(offer))
        if folder.exists():
            try:
                self.verify(model_id)
            except ModelDamaged:
                self.remove(model_id)
        try:
            incoming.chmod(0o755)
            incoming.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            # It is there already, perhaps since a moment ago.
            read_manifest(folder, model_id)
            write_atomically(folder / OFFER_NAME, _encode_offer(offer))
        flush_folder(folder.parent)
        return InstalledModel(model_id, manifest, offer, folder)

    def _offer_of(self, model_id: ModelId) -> Offer | None:
        """What was decided about these files before; None when they are new, or it cannot be read."""
        with suppress(ModelDamaged):
            return _read_offer(model_folder(self._home, model_id) / OFFER_NAME)
        return None

    def _check_free(self, name: str, model_id: ModelId) -> None:
        for model in self.list():
            if model.name == name and model.model_id != model_id:
                raise ConfigError(
                    f"another model is called {name!r} already ({model.model_id[:12]}…)", hint="give a different name"
                )


def _open(path: Path | str, wanted: str | None, place: HubPlace, progress: Progress) -> tuple[Source, Choice]:
    """The source of a model, and which of its files it is."""
    if str(path).startswith(HUB_PREFIX):
        source = open_hub(str(path), place, progress)
        return source, choose(source, wanted)
    path = Path(path)
    if os.path.isfile(path):
        if wanted is not None:
            raise ConfigError(f"{path} is a file: --file chooses one of a folder's or a repository's")
        return FolderSource(path.parent, label=str(path), name=path.absolute().parent.name), Choice(
            path.name, "", genai=False
        )
    if not os.path.isdir(path):  # pathlib's raise for a name that is too long
        there = os.path.exists(path)
        raise ConfigError(
            f"{path} {'is neither a file nor a folder' if there else 'does not exist'}",
            hint="give the path of an .onnx file, of a folder with one, or hf:OWNER/REPO",
        )
    source = FolderSource(path)
    return source, choose(source, wanted)


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name) or is_model_id(name):
        raise ConfigError(
            f"{name[:80]!r} is not allowed as a model's name",
            hint=f"letters, digits, '.', '_' and '-', at most {NAME_CHARS_MAX}",
        )
    return name


def _name_from(source: Source, choice: Choice) -> str:
    stem = posixpath.basename(choice.main).removesuffix(".onnx")
    if choice.genai or stem == "model" or str(source.label).startswith(HUB_PREFIX):
        stem = source.suggested_name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:NAME_CHARS_MAX] or "model"


def _check_offer(offer: Offer) -> None:
    _check_name(offer.name)
    for key, price in (("price_base", offer.price_base), ("price_per_item", offer.price_per_item)):
        if price is not None and not 0 <= price <= AMOUNT_NANOGRAM_MAX:
            raise ConfigError(f"{key} must be from 0 to {AMOUNT_NANOGRAM_MAX} nanogram, not {price}")
    if offer.origin not in (OPERATOR, PEER):
        raise ConfigError(f"origin must be {OPERATOR} or {PEER}")


def _changed(present: Offer, name: str | None, price_base: int | None, price_per_item: int | None) -> Offer:
    """`present` with what was given anew. Whoever adds a model by hand has chosen it."""
    return replace(
        present,
        origin=OPERATOR,
        name=present.name if name is None else name,
        price_base=present.price_base if price_base is None else price_base,
        price_per_item=present.price_per_item if price_per_item is None else price_per_item,
    )


def _encode_offer(offer: Offer) -> bytes:
    fields = {key: getattr(offer, key) for key in ("name", "price_base", "price_per_item", "serve", "origin", "share")}
    return json.dumps(fields, indent=1, sort_keys=True).encode() + b"\n"


def _read_offer(path: Path) -> Offer:
    try:
        fields: dict[str, Any] = json.loads(path.read_bytes())
        offer = Offer(
            fields["name"],
            fields.get("price_base"),
            fields.get("price_per_item"),
            fields.get("serve", True),
            fields.get("origin", OPERATOR),
            fields.get("share", True) is True,
        )
        _check_offer(offer)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ConfigError) as error:
        raise ModelDamaged(f"{path}: {error!s:.200}", hint="add the model again, which writes it anew") from error
    return offer


def _find(name_or_id: str, models: Sequence[InstalledModel]) -> InstalledModel | None:
    for model in models:
        if name_or_id in (model.name, model.model_id):
            return model
    if len(name_or_id) >= _ID_PREFIX_CHARS_MIN:
        matches = [model for model in models if model.model_id.startswith(name_or_id)]
        if len(matches) == 1:
            return matches[0]
    return None


def _not_found(wanted: str, models: tuple[InstalledModel, ...]) -> CocoonError:
    near = difflib.get_close_matches(wanted, [model.name for model in models], n=3, cutoff=0.5)
    near = near or [model.name for model in models[:3]]
    hint = f"there is {', '.join(near)}" if near else "no model was added yet: cocoon-node models add PATH"
    return CocoonError(f"there is no model {wanted[:80]!r} here", code="NO_MODEL", hint=hint)


def _remove_abandoned(models: Path) -> None:
    """Folders of an add that was cut off long ago (a power cut, kill -9)."""
    for entry in models.glob(f"{INCOMING_PREFIX}*"):
        if time.time() - entry.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(entry, ignore_errors=True)
