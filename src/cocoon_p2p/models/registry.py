"""The models that this machine has: added by the operator, from files, each under its content's id."""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.ids import ModelId, is_model_id
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX, NAME_CHARS_MAX, TOKENIZER_BYTES_MAX
from cocoon_p2p.models.inspection import NotOnnx, OnnxFacts, inspect_in_subprocess
from cocoon_p2p.models.layout import (
    INCOMING_PREFIX,
    ModelDamaged,
    copy_file,
    flush_folder,
    model_folder,
    models_folder,
    open_plain,
    read_manifest,
    verify_files,
    write_atomically,
)
from cocoon_p2p.models.manifest import (
    EMBEDDING,
    MANIFEST_NAME,
    OFFER_NAME,
    TENSOR,
    FileEntry,
    Manifest,
    ManifestError,
    check_consistent,
    check_path,
    parse_manifest,
)
from cocoon_p2p.models.text_front_end import find_front_end

MAIN_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_CHARS_MAX - 1}}}")
_ABANDONED_S = 24 * 3600.0
_ID_PREFIX_CHARS_MIN = 8


@dataclass(frozen=True, slots=True)
class Offer:
    """What the operator decided about a model. Prices in nanogram; None: the configuration's."""

    name: str
    price_base: int | None = None
    price_per_item: int | None = None
    serve: bool = True


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
        path: Path,
        *,
        name: str | None = None,
        price_base: int | None = None,
        price_per_item: int | None = None,
        license: str = "",  # noqa: A002 - the manifest's word
    ) -> InstalledModel:
        """Copy a model into the home: an .onnx file, or a folder with one .onnx, its external data and perhaps a
        tokenizer.json, which makes it take text. Files that are here already keep their name and prices where no new
        ones are given. Raises ConfigError."""
        main, folder = _find_main(path)
        wanted = Offer(_name_from(path, main) if name is None else name, price_base, price_per_item)
        _check_offer(wanted)
        models = models_folder(self._home)
        models.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(models)
        incoming = Path(tempfile.mkdtemp(prefix=INCOMING_PREFIX, dir=models))
        try:
            manifest = self._gather(main, folder, incoming, license, with_text=path.is_dir())
            present = self._offer_of(manifest.model_id)
            offer = wanted if present is None else _changed(present, name, price_base, price_per_item)
            return self._install(manifest, offer, incoming)
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
        """Change name, prices, or whether the model is served. Raises ConfigError, CocoonError(code="NO_MODEL")."""
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

    def verify(self, model_id: ModelId) -> None:
        """Read every byte of the model's files. Raises ModelDamaged, CocoonError(code="NO_MODEL")."""
        folder = model_folder(self._home, model_id)
        if not is_model_id(model_id) or not folder.is_dir():
            raise _not_found(model_id, self.list())
        verify_files(folder, read_manifest(folder, model_id))

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

    def _gather(self, main: Path, folder: Path, incoming: Path, license_name: str, *, with_text: bool) -> Manifest:
        """Copy all files into `incoming`, and only then look into them: what was checked is what is kept."""
        with _opened(main, main.resolve().parent, trusted=True) as file:
            files = [FileEntry(MAIN_FILE, *copy_file(file, incoming / MAIN_FILE))]
        try:
            facts = self._inspect(incoming / MAIN_FILE)
            for location in facts.external:
                files.append(_copy_external(location, folder, incoming))
        except NotOnnx as error:
            raise ConfigError(
                f"{main} is not an ONNX model: {error}", hint="give the path of an .onnx file, or of a folder with one"
            ) from error
        text = None
        if with_text and (folder / TOKENIZER_FILE).exists():
            with _opened(folder / TOKENIZER_FILE, folder) as file:
                if (folder / TOKENIZER_FILE).stat().st_size > TOKENIZER_BYTES_MAX:
                    raise ConfigError(f"{folder / TOKENIZER_FILE} is larger than {TOKENIZER_BYTES_MAX} bytes")
                files.append(FileEntry(TOKENIZER_FILE, *copy_file(file, incoming / TOKENIZER_FILE)))
            text = find_front_end(facts, incoming / TOKENIZER_FILE, folder)
        manifest = Manifest(
            kind=TENSOR if text is None else EMBEDDING,
            files=tuple(sorted(files, key=lambda entry: entry.path)),
            main=MAIN_FILE,
            inputs=facts.inputs,
            outputs=facts.outputs,
            opset=facts.opset,
            text=text,
            license=license_name,
            precision=facts.precision,
        )
        return _checked(manifest, main)

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


def _find_main(path: Path) -> tuple[Path, Path]:
    """The model file and the folder that its other files must lie in."""
    if os.path.isfile(path):
        return path, path.absolute().parent
    if not os.path.isdir(path):  # pathlib's raise for a name that is too long
        raise ConfigError(f"{path} does not exist", hint="give the path of an .onnx file, or of a folder with one")
    found = sorted(path.glob("*.onnx"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:4]) or "none"
        raise ConfigError(f"{path} must hold exactly one .onnx file; it holds {names}", hint="give the file's path")
    return found[0], path.absolute()


@contextmanager
def _opened(path: Path, folder: Path, *, trusted: bool = False) -> Iterator[BinaryIO]:
    """Open for reading; a file that the operator named (`trusted`) may be a link, those it refers to may not."""
    try:
        file = path.open("rb") if trusted else open_plain(path, folder)
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}", hint="copy the model's files, not links to them, into one folder (cp -rL)"
        ) from error
    with file:
        yield file


def _copy_external(location: str, folder: Path, incoming: Path) -> FileEntry:
    try:
        check_path(location)
    except ManifestError as error:
        raise NotOnnx(f"its data would come from {location[:80]!r}, outside of the model's folder") from error
    if location in (MAIN_FILE, TOKENIZER_FILE):
        raise NotOnnx(f"its data would come from {location}")
    with _opened(folder / location, folder) as file:
        return FileEntry(location, *copy_file(file, incoming / location))


def _checked(manifest: Manifest, main: Path) -> Manifest:
    try:
        check_consistent(manifest)
        return parse_manifest(manifest.encode())
    except (ManifestError, UnicodeEncodeError) as error:
        raise ConfigError(f"{main} cannot be served: {error}") from error


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name) or is_model_id(name):
        raise ConfigError(
            f"{name[:80]!r} is not allowed as a model's name",
            hint=f"letters, digits, '.', '_' and '-', at most {NAME_CHARS_MAX}",
        )
    return name


def _name_from(path: Path, main: Path) -> str:
    stem = main.stem if main.stem != "model" else path.absolute().name if path.is_dir() else path.absolute().parent.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:NAME_CHARS_MAX] or "model"


def _check_offer(offer: Offer) -> None:
    _check_name(offer.name)
    for key, price in (("price_base", offer.price_base), ("price_per_item", offer.price_per_item)):
        if price is not None and not 0 <= price <= AMOUNT_NANOGRAM_MAX:
            raise ConfigError(f"{key} must be from 0 to {AMOUNT_NANOGRAM_MAX} nanogram, not {price}")


def _changed(present: Offer, name: str | None, price_base: int | None, price_per_item: int | None) -> Offer:
    """`present` with what was given anew."""
    return replace(
        present,
        name=present.name if name is None else name,
        price_base=present.price_base if price_base is None else price_base,
        price_per_item=present.price_per_item if price_per_item is None else price_per_item,
    )


def _encode_offer(offer: Offer) -> bytes:
    fields = {key: getattr(offer, key) for key in ("name", "price_base", "price_per_item", "serve")}
    return json.dumps(fields, indent=1, sort_keys=True).encode() + b"\n"


def _read_offer(path: Path) -> Offer:
    try:
        fields: dict[str, Any] = json.loads(path.read_bytes())
        offer = Offer(fields["name"], fields.get("price_base"), fields.get("price_per_item"), fields.get("serve", True))
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
